"""Every process that the campaign starts, so that all of them end with it, by their pid."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import psutil  # type: ignore[import-untyped,unused-ignore]

T = TypeVar("T")


class InterruptedCampaignError(Exception):
    """The campaign was told to stop."""


class Processes:
    """Starts children in sessions of their own (a Ctrl-C reaches only us) and ends what is left of them."""

    def __init__(self) -> None:
        self.stopping = threading.Event()
        self._lock = threading.Lock()
        self._started: list[subprocess.Popen[bytes]] = []

    def start(
        self,
        argv: Sequence[str],
        *,
        log: Path,
        env: Mapping[str, str] | None = None,
        user: tuple[int, int] | None = None,
        stdin: int | None = subprocess.DEVNULL,
        stdout: int | None = None,
    ) -> subprocess.Popen[bytes]:
        """Start a program, its output appended to ``log``; ``user`` is (uid, gid) to run as."""
        as_user: dict[str, Any] = (
            {} if user is None else {"user": user[0], "group": user[1], "extra_groups": []}
        )
        with self._lock, log.open("ab") as file:
            if self.stopping.is_set():
                raise InterruptedCampaignError
            process = subprocess.Popen(
                list(argv),
                env=env,
                stdin=stdin,
                stdout=file if stdout is None else stdout,
                stderr=file,
                start_new_session=True,
                **as_user,
            )
            self._started.append(process)
        return process

    def end_all(self) -> None:
        """Kill every child that still runs, and its children."""
        self.stopping.set()
        with self._lock:
            left = [process for process in self._started if process.poll() is None]
        for process in left:
            kill_tree(process.pid)
        for process in left:
            with suppress(subprocess.TimeoutExpired):
                process.wait(10)
            if process.stdin is not None:
                with suppress(BrokenPipeError):
                    process.stdin.close()

    def sleep(self, seconds: float) -> None:
        """Sleep, unless the campaign is told to stop.

        Raises:
            InterruptedCampaignError: it is.
        """
        if self.stopping.wait(max(0.0, seconds)):
            raise InterruptedCampaignError

    def wait_for(self, probe: Callable[[], T], timeout_s: float, *, what: str, every_s: float = 0.1) -> T:
        """Return the first truthy value of ``probe``.

        Raises:
            TimeoutError: none came within ``timeout_s``; says ``what`` was waited for.
        """
        deadline = time.monotonic() + timeout_s
        while not (value := probe()):
            if time.monotonic() > deadline:
                raise TimeoutError(f"did not happen within {timeout_s} s: {what}")
            self.sleep(every_s)
        return value


def tree(pid: int) -> Iterator[psutil.Process]:
    """Yield a process and all its descendants."""
    with suppress(psutil.NoSuchProcess):
        root = psutil.Process(pid)
        children = root.children(recursive=True)
        yield root
        yield from children


def signal_tree(pid: int, number: signal.Signals) -> list[psutil.Process]:
    """Send a signal to a process and its descendants; return them."""
    found = list(tree(pid))
    for process in found:
        with suppress(psutil.NoSuchProcess, ProcessLookupError):
            os.kill(process.pid, number)
    return found


def kill_tree(pid: int) -> None:
    """SIGKILL a process and its descendants (stopped ones too), and wait until all are gone."""
    psutil.wait_procs(signal_tree(pid, signal.SIGKILL), timeout=10)


def tail(path: Path, lines: int = 12) -> str:
    """Return the last lines of a log."""
    with suppress(OSError):
        return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])
    return ""
