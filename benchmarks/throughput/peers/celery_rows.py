"""Plain Celery, prefork and solo, and celery-batches: on the broker that alexq embeds, with its settings."""

from __future__ import annotations

import base64
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from celery import Celery
from celery.exceptions import TimeoutError as CeleryTimeoutError
from celery.result import ResultSet

from alexq.stack.broker import EmbeddedBroker
from alexq_schema.errors import StackError
from benchmarks.throughput.contender import Answers, NotRunnableError, Work, start_process, wait_until
from benchmarks.throughput.peers.celery_config import CLASSIFY, configured
from benchmarks.throughput.peers.processes import chosen, end_all, resolved, server_environment, tail
from benchmarks.throughput.peers.venvs import environment, versions

READY_S = 60.0
START_S = 240.0
RESULTS_S = 600.0
WARM_IMAGES = 128


class CeleryRow:
    """A broker, a worker, and a client that publishes one task an image and waits for all results.

    The worker is spared what it need not do: events, gossip, mingling, heartbeats, remote control.
    """

    name: str
    module: ClassVar[str]
    distributions: ClassVar[dict[str, str]] = {"Celery": "celery"}
    requirements: ClassVar[tuple[str, ...]] = ()
    """Empty: the Celery that alexq itself runs on."""
    defaults: ClassVar[dict[str, Any]]
    """What the constructor takes; None becomes the number of cores at the start."""
    tunings: ClassVar[list[dict[str, Any]]]
    """Constructor arguments that are worth a try, the defaults included as ``{}``."""

    def __init__(self, **settings: Any) -> None:
        self.settings = chosen(self.defaults, settings)
        self._processes: list[subprocess.Popen[bytes]] = []
        self._app: Celery | None = None

    def pool(self) -> list[str]:
        """Return the worker's options that say where tasks run."""
        raise NotImplementedError

    def version(self) -> str:
        """Return what the worker imports."""
        return versions(self._python(), self.distributions)

    def _python(self) -> Path:
        if not self.requirements:
            return Path(sys.executable)
        return environment("celery-batches", self.requirements)

    def start(self, work: Work, folder: Path) -> None:
        """Start broker and worker and send them images until they are warm."""
        python = self._python()
        self.settings = resolved(self.settings, work.cores)
        log = folder / "worker.log"
        try:
            broker = EmbeddedBroker.configure(folder / "broker")
            self._processes.append(start_process(broker.argv, folder / "broker.log", {}))
            wait_until(broker.is_ready, READY_S, "the broker answers", folder / "broker.log")
            env = server_environment(work, self.settings, folder) | {"BENCH_BROKER_URL": broker.url}
            self._processes.append(start_process(self._argv(python), log, env))
            self._app = configured(broker.url)
            self._warm_up(work, log)
        except (OSError, RuntimeError, StackError) as error:
            self.stop()
            raise NotRunnableError(f"{self.name}: {error}\n{tail(log)}") from error
        except BaseException:
            self.stop()
            raise

    def _argv(self, python: Path) -> list[str]:
        argv = [str(python), "-m", "celery", "-A", f"benchmarks.throughput.peers.{self.module}", "worker"]
        argv += ["--loglevel", "WARNING", "--without-gossip", "--without-mingle", "--without-heartbeat"]
        return [*argv, *self.pool()]

    def _warm_up(self, work: Work, log: Path) -> None:
        """Wait for the first result, then have every pool process see a few images."""
        assert self._app is not None
        first = self._publish(work.images[0])

        def is_warm() -> bool:
            code = self._processes[-1].poll()
            if code is not None:
                raise RuntimeError(f"the worker ended with exit code {code}\n{tail(log)}")
            return bool(first.ready())

        wait_until(is_warm, START_S, "the worker classifies an image", log)
        self.classify([work.images[number % len(work.images)] for number in range(WARM_IMAGES)])

    def _publish(self, image: bytes, **options: Any) -> Any:
        assert self._app is not None
        return self._app.send_task(CLASSIFY, (base64.b64encode(image).decode(),), **options)

    def classify(self, images: Sequence[bytes]) -> Answers:
        """Publish every image, then collect the results as the broker announces them."""
        assert self._app is not None
        started = time.perf_counter()
        answers = Answers([-1] * len(images), [0.0] * len(images))
        failed: list[str] = []
        with self._app.producer_or_acquire() as producer:
            results = [self._publish(image, producer=producer) for image in images]
        place = {result.id: number for number, result in enumerate(results)}

        def collect(task_id: str, value: Any) -> None:
            number = place.pop(task_id)
            answers.latency_s[number] = time.perf_counter() - started
            if isinstance(value, int):
                answers.best[number] = value
            else:
                failed.append(f"image {number}: {value!r}")

        try:
            ResultSet(results, app=self._app).join_native(
                timeout=RESULTS_S, propagate=False, callback=collect
            )
        except CeleryTimeoutError as error:
            raise RuntimeError(
                f"images {sorted(place.values())[:5]} …: no result in {RESULTS_S:.0f} s"
            ) from error
        if failed:
            raise RuntimeError(failed[0])
        return answers

    def pids(self) -> Sequence[int]:
        """Return broker and worker."""
        return [process.pid for process in self._processes]

    def stop(self) -> None:
        """End the worker, then the broker."""
        if self._app is not None:
            self._app.close()
            self._app = None
        end_all(list(reversed(self._processes)))
        self._processes.clear()


class CeleryPrefork(CeleryRow):
    """One process a core, each with a model and one torch thread."""

    name = "Celery, prefork, one image a task"
    module = "celery_app"
    tunings: ClassVar[list[dict[str, Any]]] = [{}, {"prefetch": 1}, {"prefetch": 16}]

    defaults: ClassVar[dict[str, Any]] = {
        "concurrency": None,
        "torch_threads": 1,
        "prefetch": 4,
    }

    def pool(self) -> list[str]:
        """Return prefork's options."""
        return ["--pool", "prefork", "--concurrency", str(self.settings["concurrency"])]


class CelerySolo(CeleryRow):
    """One process, in which torch has all cores."""

    name = "Celery, solo, one image a task"
    module = "celery_app"
    tunings: ClassVar[list[dict[str, Any]]] = [{}, {"torch_threads": 1}, {"prefetch": 16}]

    defaults: ClassVar[dict[str, Any]] = {
        "torch_threads": None,
        "prefetch": 4,
    }

    def pool(self) -> list[str]:
        """Return the solo pool's options."""
        return ["--pool", "solo"]


class CeleryBatches(CeleryRow):
    """Batches in threads of one worker, one decoding while another infers; or in processes."""

    name = "celery-batches"
    module = "batches_app"
    distributions: ClassVar[dict[str, str]] = {"celery-batches": "celery-batches", "Celery": "celery"}
    requirements = ("celery-batches==0.11", "celery[redis]==5.6.3")
    tunings: ClassVar[list[dict[str, Any]]] = [
        {},
        {"max_batch": 32},
        {"torch_threads": 1},
        {"concurrency": 3},
        {"threads": False, "concurrency": None, "decode_threads": 1, "torch_threads": 1},
    ]

    defaults: ClassVar[dict[str, Any]] = {
        "threads": True,
        "concurrency": 2,
        "decode_threads": None,
        "torch_threads": None,
        "max_batch": 64,
        "flush_ms": 100,
        "prefetch_batches": 2,
    }

    def pool(self) -> list[str]:
        """Return the pool's options."""
        kind = "threads" if self.settings["threads"] else "prefork"
        return ["--pool", kind, "--concurrency", str(self.settings["concurrency"])]
