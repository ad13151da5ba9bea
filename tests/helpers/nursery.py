"""Forks the tests' processes from interpreters that have imported what they need: most of a start is that."""

from __future__ import annotations

import atexit
import os
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from alexq.stack.environment import environment
from alexq_schema.settings import Settings
from benchmarks.chaos.nursery import WORKER, Child, Nursery
from benchmarks.chaos.processes import Processes

IMPORTS = {
    "alexq_worker": WORKER,
    "alexq_producer.gateway": ("alexq_producer.gateway.app", "uvicorn.protocols.http.httptools_impl"),
    "alexq_monitor": ("alexq_monitor.app",),
    "alexq": (
        "alexq.cli.database",
        "alexq.cli.desk",
        "alexq.cli.output",
        "alexq.doctor",
        "alexq_producer.client",
        "alexq_schema.db.webhooks",
        "alexq_schema.migrations",
        "rich.table",
        "sqlalchemy.dialects.postgresql.psycopg",
        "sqlalchemy.dialects.sqlite.pysqlite",
    ),
}
_nurseries: dict[str, Nursery] = {}


def start(program: Sequence[str], *, log: Path, env: Mapping[str, str], of: str = "alexq_worker") -> Child:
    """Start ``python -m`` one of :data:`IMPORTS` or ``-c`` code ``of`` one; its output goes to ``log``."""
    how, what = program
    nursery = _nursery(what if how == "-m" else of, log.with_name("nursery.log"))
    return nursery.start(program, log=log, env=env)


def run_alexq(
    settings: Settings, *arguments: str, stdin: str = "", timeout_s: float = 300.0
) -> subprocess.CompletedProcess[str]:
    """Run the ``alexq`` command with these settings, and wait for its end."""
    with tempfile.TemporaryDirectory() as folder:
        given, said, errors = (Path(folder, name) for name in ("stdin", "stdout", "stderr"))
        for path, text in ((given, stdin), (said, ""), (errors, "")):
            path.write_text(text)
        nursery = _nursery("alexq", Path(tempfile.gettempdir()) / f"alexq-nursery-{os.getpid()}.log")
        child = nursery.start(
            ["-m", "alexq", *arguments], log=said, errors=errors, given=given, env=environment(settings)
        )
        try:
            code = child.wait(timeout_s)
        except subprocess.TimeoutExpired:
            child.kill()
            raise
        return subprocess.CompletedProcess(["alexq", *arguments], code, said.read_text(), errors.read_text())


def _nursery(module: str, log: Path) -> Nursery:
    """Return the module's nursery, which lasts as long as this process."""
    if module not in _nurseries:
        processes = Processes()
        atexit.register(processes.end_all)
        _nurseries[module] = Nursery(processes, log, IMPORTS[module])
    return _nurseries[module]
