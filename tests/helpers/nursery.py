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
    "alexq_producer.webhooks": ("alexq_producer.webhooks.app",),
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


def start(program: Sequence[str], *, log: Path, env: Mapping[str, str], of: str = "") -> Child:
    """Start ``python -m`` one of :data:`IMPORTS` or what else a worker has; its output goes to ``log``.

    Args:
        program: ``-m`` and a module or ``-c`` and code, its arguments.
        of: the one of :data:`IMPORTS` whose imports the code needs, if not a worker's.
    """
    return _nursery(of or program[1], log.with_name("nursery.log")).start(program, log=log, env=env)


def run_alexq(
    settings: Settings, *arguments: str, stdin: str = "", timeout_s: float = 300.0
) -> subprocess.CompletedProcess[str]:
    """Run the ``alexq`` command with these settings, and wait for its end."""
    return _run("alexq", settings, arguments, stdin, timeout_s)


def run_models(
    settings: Settings, *arguments: str, timeout_s: float = 300.0
) -> subprocess.CompletedProcess[str]:
    """Run what ``alexq models`` becomes for commands that need torch, without a new interpreter."""
    return _run("alexq_worker.models", settings, arguments, "", timeout_s)


def _run(
    module: str, settings: Settings, arguments: Sequence[str], stdin: str, timeout_s: float
) -> subprocess.CompletedProcess[str]:
    with tempfile.TemporaryDirectory() as folder:
        given, said, errors = (Path(folder, name) for name in ("stdin", "stdout", "stderr"))
        for path, text in ((given, stdin), (said, ""), (errors, "")):
            path.write_text(text)
        nursery = _nursery(module, Path(tempfile.gettempdir()) / f"alexq-nursery-{os.getpid()}.log")
        child = nursery.start(
            ["-m", module, *arguments], log=said, errors=errors, given=given, env=environment(settings)
        )
        try:
            code = child.wait(timeout_s)
        except subprocess.TimeoutExpired:
            child.kill()
            raise
        return subprocess.CompletedProcess([module, *arguments], code, said.read_text(), errors.read_text())


def _nursery(program: str, log: Path) -> Nursery:
    """Return the program's nursery, which lasts as long as this process: a worker's, if it has none."""
    module = program if program in IMPORTS else "alexq_worker"
    if module not in _nurseries:
        processes = Processes()
        atexit.register(processes.end_all)
        _nurseries[module] = Nursery(processes, log, IMPORTS[module])
    return _nurseries[module]
