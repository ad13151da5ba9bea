"""The broker, the database and the workers of one measurement; each a real process on the loopback."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped,unused-ignore]

from alexq.stack.environment import environment, free_port
from alexq.stack.probe import answers_http
from alexq_schema import migrations
from alexq_schema.db import workers
from alexq_schema.db.session import Database
from alexq_schema.settings import Settings
from benchmarks.chaos.nursery import Nursery
from benchmarks.chaos.processes import Processes, tail
from benchmarks.chaos.servers import Broker, PostgresBinaries, PostgreSQL
from benchmarks.unshared import require_nothing_shared

DATABASES = ("sqlite", "postgresql")
READY_S = 180.0
STOP_S = 60.0


class Stage:
    """What every measurement uses: a folder, workers' imports done once, an empty PostgreSQL to copy."""

    def __init__(self, processes: Processes, folder: Path) -> None:
        self.processes = processes
        self.folder = folder
        self._count = 0

    @cached_property
    def nursery(self) -> Nursery:
        """A process that has imported what a worker needs, and forks workers."""
        return Nursery(self.processes, self.folder / "nursery.log")

    @cached_property
    def _binaries(self) -> PostgresBinaries:
        return PostgresBinaries()

    @cached_property
    def _template(self) -> Path:
        if self._binaries.user is not None:  # another user, who must pass through our folder
            self.folder.chmod(0o711)
        return self._binaries.make_template(self.folder / "template")

    @contextmanager
    def services(self, database: str, **overrides: Any) -> Iterator[Services]:
        """Start a broker and an empty, migrated database; end both at the end."""
        self._count += 1
        folder = self.folder / str(self._count)
        folder.mkdir(mode=0o711)
        broker = Broker(self.processes, folder / "broker")
        broker.start()
        postgresql = None
        url = f"sqlite:///{folder / 'alexq.sqlite3'}"
        if database == "postgresql":
            postgresql = PostgreSQL(self.processes, self._binaries, self._template, folder)
            postgresql.start()
            url = postgresql.url
        try:
            migrations.upgrade(url)
            settings = Settings.load(data_dir=folder, database_url=url, broker_url=broker.url, **overrides)
            yield Services(self, folder, settings, broker, postgresql)
        finally:
            if postgresql is not None:
                postgresql.stop()
            broker.kill()
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def stage() -> Iterator[Stage]:
    """Make a stage; every process that was started on it ends with it."""
    processes = Processes()
    with tempfile.TemporaryDirectory(prefix="alexq-scale-", ignore_cleanup_errors=True) as folder:
        try:
            yield Stage(processes, Path(folder))
        finally:
            processes.end_all()


@dataclass
class Services:
    """A broker and a database."""

    stage: Stage
    folder: Path
    settings: Settings
    broker: Broker
    postgresql: PostgreSQL | None

    @property
    def pids(self) -> dict[str, list[int]]:
        """What to measure; SQLite is no process: its work is done by who uses it."""
        database = [self.postgresql.pid] if self.postgresql is not None else []
        return {"broker": [self.broker.pid], "database": database}

    @contextmanager
    def serving(self, module: str, port_setting: str, path: str) -> Iterator[tuple[int, psutil.Process]]:
        """Run ``python -m module`` on a free port; yield port and process, once it answers at ``path``."""
        port = free_port("127.0.0.1")
        process = self.stage.processes.start(
            [sys.executable, "-m", module],
            log=self.folder / f"{module}.log",
            env=environment(self.settings.model_copy(update={port_setting: port})),
        )
        self.stage.processes.wait_for(
            lambda: answers_http("127.0.0.1", port, path), READY_S, what=f"{module} answers"
        )
        try:
            yield port, psutil.Process(process.pid)
        finally:
            process.terminate()
            process.wait(STOP_S)


class RealWorker:
    """One worker as it is run everywhere, in a process that shares no memory with us."""

    def __init__(self, where: Services) -> None:
        self._processes = where.stage.processes
        self._database_url = where.settings.database_url
        self._log = where.folder / "worker.log"
        self._process = self._processes.start(
            [sys.executable, "-m", "alexq_worker"], log=self._log, env=environment(where.settings)
        )

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def wait_ready(self) -> None:
        """Wait until it shows itself in the database.

        Raises:
            RuntimeError: it ended; with its last lines.
        """
        database = Database(self._database_url)

        def is_ready() -> bool:
            if self._process.poll() is not None:
                raise RuntimeError(f"the worker ended:\n{tail(self._log)}")
            with database.read() as connection:
                return bool(workers.alive(connection, READY_S))

        try:
            self._processes.wait_for(is_ready, READY_S, what="the worker is ready")
        finally:
            database.close()

    def stop(self) -> None:
        """Stop it in good order.

        Raises:
            RuntimeError: it did not; with its last lines. Or it has answered images without computing them.
        """
        self._process.terminate()
        if self._process.wait(STOP_S) != 0:
            raise RuntimeError(f"the worker did not stop in good order:\n{tail(self._log)}")
        require_nothing_shared(self._log)


class Workers:
    """Stand-in workers that wait at their gate until :meth:`open_gate`."""

    def __init__(self, where: Services, count: int, device_ms: float) -> None:
        self._processes = where.stage.processes
        self._gate = where.folder / "gate"
        self._count = count
        self._log = where.folder / "workers.log"
        program = ["-m", "benchmarks.scale.standin_worker", "--workers", str(count)]
        program += ["--device-ms", str(device_ms), "--gate", str(self._gate)]
        self._parent = where.stage.nursery.start(program, log=self._log, env=environment(where.settings))

    def wait_ready(self) -> None:
        """Wait until every worker stands at the gate.

        Raises:
            RuntimeError: they ended; with their last lines.
        """

        def is_ready() -> bool:
            if self._parent.poll() is not None:
                raise RuntimeError(f"the workers ended:\n{tail(self._log)}")
            return len(self.pids) == self._count

        self._processes.wait_for(is_ready, READY_S, what=f"{self._count} workers are ready")

    @property
    def pids(self) -> list[int]:
        """The workers that have come to the gate."""
        return [int(path.suffix[1:]) for path in self._gate.parent.glob(f"{self._gate.name}.*")]

    def open_gate(self) -> None:
        """Let them connect and consume."""
        self._gate.touch()

    def stop(self) -> None:
        """Stop them in good order.

        Raises:
            RuntimeError: one did not; with its last lines. Or one has answered images without computing them.
        """
        os.kill(self._parent.pid, signal.SIGTERM)
        if self._parent.wait(STOP_S) != 0:
            raise RuntimeError(f"a worker did not stop in good order:\n{tail(self._log)}")
        require_nothing_shared(self._log)
