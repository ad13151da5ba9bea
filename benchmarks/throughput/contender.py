"""What is measured: something that takes encoded images and gives back the best class of each."""

from __future__ import annotations

import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import psutil

MEMORY_EVERY_S = 0.25


@dataclass(frozen=True)
class Work:
    """What every contender gets: the same images, weights and precision."""

    images: Sequence[bytes]
    """Distinct JPEGs."""
    models_dir: Path
    """Holds the one active model version."""
    precision: str
    cores: int


@dataclass
class Answers:
    """What one round gave back."""

    best: list[int]
    """Class index of each image, in the order given."""
    latency_s: list[float]
    """From handing an image in to having its answer, of each image, while all of them wait together."""


class NotRunnableError(Exception):
    """A contender cannot run here; says why."""


class Contender(Protocol):
    """One row of the table. ``start`` may take minutes; only ``classify`` is timed."""

    name: str
    """As in the table."""

    def start(self, work: Work, folder: Path) -> None:
        """Start servers and workers and wait until they are warm.

        Args:
            folder: an empty folder for logs and data.

        Raises:
            NotRunnableError: it cannot run on this machine.
        """

    def classify(self, images: Sequence[bytes]) -> Answers:
        """Classify all of them as fast as it can.

        Raises:
            RuntimeError: an answer is missing or is an error; says which.
        """

    def pids(self) -> Sequence[int]:
        """Return its processes, each measured with all its children; this process is added by itself."""

    def stop(self) -> None:
        """End every process. May be called twice, or without a start."""


@dataclass
class Usage:
    """What a round cost over all processes, the client's included."""

    wall_s: float = 0.0
    cpu_s: float = 0.0


@contextmanager
def measured(pids: Sequence[int]) -> Iterator[Usage]:
    """Measure what happens inside the context; this process's own CPU time counts as the client's."""
    usage = Usage()
    before_s, own_s, started = _cpu_s(pids), time.process_time(), time.perf_counter()
    yield usage
    usage.wall_s = time.perf_counter() - started
    usage.cpu_s = _cpu_s(pids) - before_s + time.process_time() - own_s


def _cpu_s(roots: Sequence[int]) -> float:
    """Return the CPU time of process trees that live, and of children that their processes have reaped."""
    total_s = 0.0
    for process in _trees(roots):
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            times = process.cpu_times()
            total_s += times.user + times.system + times.children_user + times.children_system
    return total_s


def _trees(roots: Sequence[int]) -> Iterator[psutil.Process]:
    for pid in roots:
        with suppress(psutil.NoSuchProcess):
            root = psutil.Process(pid)
            yield root
            yield from root.children(recursive=True)


@contextmanager
def peak_memory(pids: Sequence[int]) -> Iterator[list[int]]:
    """Sample the memory of what happens inside; the list's one item is the peak, in bytes, afterwards.

    Not together with :func:`measured`: a sample takes 26 ms of a core for the processes of one stack.
    """
    peak = [memory_bytes(pids)]
    done = threading.Event()

    def watch() -> None:
        while not done.wait(MEMORY_EVERY_S):
            peak[0] = max(peak[0], memory_bytes(pids))

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield peak
    finally:
        done.set()
        watcher.join()
        peak[0] = max(peak[0], memory_bytes(pids))


def memory_bytes(pids: Sequence[int]) -> int:
    """Return the proportional set size of process trees, summed."""
    total = 0
    for process in _trees(pids):
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            total += process.memory_full_info().pss
    return total


def start_process(argv: Sequence[str], log: Path, env: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start a program in a session of its own, its output in ``log``."""
    with log.open("ab") as file:
        return subprocess.Popen(
            list(argv),
            env=dict(env),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            start_new_session=True,
        )


def end_processes(processes: Sequence[subprocess.Popen[bytes]], grace_s: float = 20.0) -> None:
    """SIGTERM each, then SIGKILL it and its children."""
    for process in processes:
        children = list(_trees([process.pid]))
        with suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(grace_s)
        for child in children:
            with suppress(psutil.NoSuchProcess):
                child.kill()
        process.wait(10)


def wait_until(probe: Callable[[], bool], timeout_s: float, what: str, log: Path | None = None) -> None:
    """Wait for ``probe``.

    Raises:
        RuntimeError: it did not come true in time; with the last lines of ``log``.
    """
    deadline = time.monotonic() + timeout_s
    while not probe():
        if time.monotonic() > deadline:
            lines = log.read_text(errors="replace").splitlines()[-15:] if log and log.exists() else []
            raise RuntimeError("\n".join([f"not within {timeout_s:.0f} s: {what}", *lines]))
        time.sleep(0.2)
