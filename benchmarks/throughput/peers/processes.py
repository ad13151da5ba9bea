"""How a contender's processes get its settings, and how all of them are ended."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from benchmarks.throughput.contender import Work, end_processes
from benchmarks.throughput.peers.venvs import REPO

TAIL_LINES = 15


def chosen(defaults: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``settings`` over ``defaults``; raises TypeError for one that is unknown."""
    if unknown := settings.keys() - defaults.keys():
        raise TypeError(f"unknown settings {sorted(unknown)}; there are {sorted(defaults)}")
    return {**defaults, **settings}


def resolved(settings: Mapping[str, Any], cores: int) -> dict[str, Any]:
    """Return ``settings`` with one per core where they say None."""
    return {name: cores if value is None else value for name, value in settings.items()}


def server_environment(work: Work, settings: Mapping[str, Any], folder: Path) -> dict[str, str]:
    """Return what a process gets: the model's variables, each setting as ``BENCH_…``, a temporary folder."""
    temporary = folder / "tmp"
    temporary.mkdir(exist_ok=True)
    return {
        **os.environ,
        "PYTHONPATH": str(REPO),
        "PYTHONUNBUFFERED": "1",
        "TMPDIR": str(temporary),
        "BENCH_MODELS_DIR": str(work.models_dir),
        "BENCH_PRECISION": work.precision,
        # Other threads than the one in which torch is told follow this.
        "OMP_NUM_THREADS": str(settings["torch_threads"]),
        **{f"BENCH_{name.upper()}": str(int(value)) for name, value in settings.items()},
    }


def end_all(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """End processes with all that they started, also what outlived a parent that crashed."""
    end_processes(processes)
    sessions = {process.pid for process in processes}
    for process in psutil.process_iter():
        with suppress(ProcessLookupError, psutil.NoSuchProcess):
            if os.getsid(process.pid) in sessions:
                process.kill()


def tail(log: Path) -> str:
    """Return the last lines of a log, empty if there is none."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-TAIL_LINES:]) if log.exists() else ""
