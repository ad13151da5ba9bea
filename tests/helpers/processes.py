"""Real worker processes under a test's control."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import redis

from alexq.stack.environment import environment
from alexq_schema.db import workers
from alexq_schema.db.session import Database
from alexq_schema.settings import Settings
from benchmarks.chaos.nursery import Child
from tests.helpers import nursery
from tests.helpers.eventually import eventually

BUSY = """
import sys, time
from alexq_worker.app import main
from alexq_worker.inference.engine import Engine
classify = Engine.classify
def busy(self, images):
    time.sleep({image_s} * len(images))
    return classify(self, images)
Engine.classify = busy
sys.exit(main())
"""
"""A worker whose device is busy with each image for so long, and takes no CPU meanwhile."""


class WorkerProcess:
    """``python -m alexq_worker``, its log in a file of JSON lines."""

    def __init__(
        self,
        settings: Settings,
        log: Path,
        python: str,
        *,
        program: str | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        """Start one.

        Args:
            program: Python code that runs instead of ``alexq_worker``'s own; it calls ``main`` itself.
            env: variables beside those of ``settings``.
        """
        self.settings = settings.model_copy(update={"log_format": "json"})
        self.log = log
        arguments = ["-m", "alexq_worker"] if program is None else ["-c", program]
        variables = {**environment(self.settings), **(env or {})}
        self.process: subprocess.Popen[bytes] | Child
        if python == sys.executable and env is None:
            self.process = nursery.start(arguments, log=log, env=variables)
        else:  # another release, or variables that change what is imported
            with log.open("wb") as file:
                self.process = subprocess.Popen([python, *arguments], env=variables, stdout=file, stderr=file)

    @property
    def pid(self) -> int:
        """The process id."""
        return self.process.pid

    def wait_ready(self, timeout_s: float = 300.0) -> None:
        """Wait until the worker shows itself in the ``workers`` table."""
        database = Database(self.settings.database_url)

        def is_ready() -> bool:
            assert self.process.poll() is None, f"the worker exited:\n{self.log.read_text()}"
            with database.read() as connection:
                alive = workers.alive(connection, self.settings.silent_after_s)
            return any(worker.pid == self.pid for worker in alive)

        try:
            eventually(is_ready, timeout_s, what="the worker is ready")
        finally:
            database.close()

    def lines(self, event: str) -> list[dict[str, Any]]:
        """Return the log's records of this event."""
        return [record for record in self._records() if record["event"] == event]

    def lines_with(self, text: str) -> list[dict[str, Any]]:
        """Return the log's records whose event has this text in it."""
        return [record for record in self._records() if text in record["event"]]

    def _records(self) -> list[dict[str, Any]]:
        whole, _, _being_written = self.log.read_text(errors="replace").rpartition("\n")
        return [json.loads(line) for line in whole.splitlines() if line.startswith("{")]

    def rss_bytes(self) -> int:
        """Return the resident memory of the process."""
        return int(psutil.Process(self.pid).memory_info().rss)

    def terminate(self, timeout_s: float = 150.0) -> int:
        """Send SIGTERM and return the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout_s)

    def kill(self) -> None:
        """Send SIGKILL, if it still runs, and reap it."""
        self.process.kill()
        self.process.wait(60)


@contextmanager
def stopped_server(broker_url: str) -> Iterator[None]:
    """Freeze the broker's process: connections stay open, nothing answers."""
    client = redis.Redis.from_url(broker_url)
    process = psutil.Process(int(client.info("server")["process_id"]))
    client.close()
    process.suspend()
    try:
        yield
    finally:
        process.resume()
