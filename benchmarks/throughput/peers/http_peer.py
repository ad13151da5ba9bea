"""What all contenders that serve HTTP have in common."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from alexq.stack.environment import free_port
from benchmarks.throughput.contender import Answers, NotRunnableError, Work, start_process, wait_until
from benchmarks.throughput.peers.http_client import Form, HttpClient
from benchmarks.throughput.peers.processes import chosen, end_all, resolved, server_environment, tail
from benchmarks.throughput.peers.venvs import environment, versions

START_S = 240.0
ANSWER_S = 30.0


class HttpPeer:
    """A server in an environment of its own, on a free loopback port."""

    name: str
    distribution: ClassVar[tuple[str, str]]
    """Its name for people and as pip knows it."""
    requirements: ClassVar[tuple[str, ...]]
    path: ClassVar[str]
    form: ClassVar[Form | None] = None
    defaults: ClassVar[dict[str, Any]]
    """What the constructor takes. None becomes the number of cores at the start, and 0 connections become two
    batches for each worker: one is in the model while the next one comes in."""
    tunings: ClassVar[list[dict[str, Any]]]
    """Constructor arguments that are worth a try, the defaults included as ``{}``."""

    def __init__(self, **settings: Any) -> None:
        self.settings = chosen(self.defaults, settings)
        self._process: subprocess.Popen[bytes] | None = None
        self._client: HttpClient | None = None
        self._log = Path()
        self._last_answer = ""

    def argv(self, python: Path, port: int) -> list[str]:
        """Return the command that serves on ``port``."""
        raise NotImplementedError

    def more_environment(self, folder: Path, port: int) -> dict[str, str]:
        """Return environment variables of this server's own."""
        return {"BENCH_PORT": str(port)}

    def version(self) -> str:
        """Return the version that the server imports."""
        name, distribution = self.distribution
        return versions(self._python(), {name: distribution})

    def _python(self) -> Path:
        return environment(self.distribution[1], self.requirements)

    def start(self, work: Work, folder: Path) -> None:
        """Start the server and send it images until it is warm."""
        python = self._python()
        self.settings = resolved(self.settings, work.cores)
        if not self.settings["connections"]:
            self.settings["connections"] = 2 * self.settings["workers"] * self.settings["max_batch"]
        self._log = folder / "server.log"
        try:
            port = free_port("127.0.0.1")
            env = server_environment(work, self.settings, folder) | self.more_environment(folder, port)
            self._client = HttpClient(port, self.path, self.settings["connections"], self.form)
            self._process = start_process(self.argv(python, port), self._log, env)
            wait_until(lambda: self._answers(work.images[:1]), START_S, "an answer", self._log)
            # Twice what is under way, so that every worker has seen full batches.
            count = 2 * self.settings["connections"]
            self.classify([work.images[number % len(work.images)] for number in range(count)])
        except (OSError, RuntimeError) as error:
            self.stop()
            raise NotRunnableError(f"{self.name}: {error}; last answer: {self._last_answer}") from error
        except BaseException:
            self.stop()
            raise

    def _answers(self, images: Sequence[bytes]) -> bool:
        assert self._process is not None
        assert self._client is not None
        if self._process.poll() is not None:
            raise RuntimeError(f"it ended with exit code {self._process.returncode}\n{tail(self._log)}")
        try:
            self._client.classify(images, ANSWER_S)
        except (OSError, RuntimeError) as error:  # not yet
            self._last_answer = str(error)
            return False
        return True

    def classify(self, images: Sequence[bytes]) -> Answers:
        """Return each image's best class."""
        assert self._client is not None
        return self._client.classify(images)

    def pids(self) -> Sequence[int]:
        """Return the server's process; workers are its children."""
        return [self._process.pid] if self._process is not None else []

    def stop(self) -> None:
        """End the server and its workers."""
        if self._process is not None:
            end_all([self._process])
            self._process = None
