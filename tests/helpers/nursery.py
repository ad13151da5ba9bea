"""Forks the tests' processes from interpreters that have imported what they need: most of a start is that."""

from __future__ import annotations

import atexit
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.chaos.nursery import WORKER, Child, Nursery
from benchmarks.chaos.processes import Processes

IMPORTS = {
    "alexq_worker": WORKER,
    "alexq_producer.gateway": ("alexq_producer.gateway.app", "uvicorn.protocols.http.httptools_impl"),
    "alexq_monitor": ("alexq_monitor.app",),
}
_nurseries: dict[str, Nursery] = {}


def start(program: Sequence[str], *, log: Path, env: Mapping[str, str]) -> Child:
    """Start ``python -m`` one of :data:`IMPORTS` or ``-c`` code of a worker; its output goes to ``log``."""
    how, what = program
    nursery = _nursery(what if how == "-m" else "alexq_worker", log.with_name("nursery.log"))
    return nursery.start(program, log=log, env=env)


def _nursery(module: str, log: Path) -> Nursery:
    """Return the module's nursery, which lasts as long as this process."""
    if module not in _nurseries:
        processes = Processes()
        atexit.register(processes.end_all)
        _nurseries[module] = Nursery(processes, log, IMPORTS[module])
    return _nurseries[module]
