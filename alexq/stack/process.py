"""One child process in a process group of its own, its output copied to the log.

Threads: each :class:`Process` has one (two when stdout is captured) that only reads a pipe. The
process itself belongs to the thread that made it: on Linux the kernel kills it when that *thread*
ends, so a supervisor starts every child, and restarts it, from one thread that outlives them all.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Final

from alexq.stack.log import Log
from alexq_schema.errors import StackError

_LAUNCH: Final = str(Path(__file__).with_name("launch.py"))
_LINE_BYTES: Final = 64 * 1024
"""A longer line is shown in pieces."""
_DRAIN_S: Final = 2.0
"""Wait for the last output of a process that has ended."""


def tied_to_parent(argv: Sequence[str]) -> list[str]:
    """Return ``argv`` so that it dies with the calling thread, where the system can do that (Linux)."""
    if sys.platform != "linux":
        return list(argv)
    return [sys.executable, "-I", "-S", _LAUNCH, str(os.getpid()), *argv]


def describe_exit(code: int) -> str:
    """Return an exit status in words: ``exit code 3`` or ``SIGKILL``."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"


class Process:
    """A started process. Its output goes to ``log`` line by line under ``name``."""

    def __init__(
        self,
        name: str,
        argv: Sequence[str],
        env: Mapping[str, str],
        log: Log,
        *,
        captures_stdout: bool = False,
        on_output_end: Callable[[], None] = lambda: None,
    ) -> None:
        """Start it.

        Args:
            captures_stdout: keep stdout for :meth:`output` instead of logging it.
            on_output_end: called, in the reading thread, when the process has closed its output:
                mostly when it has ended.

        Raises:
            StackError: the system refuses to start it.
        """
        self.name = name
        self._log = log
        self._on_output_end = on_output_end
        self._captured = b""
        self._is_over = False
        try:
            self._popen = subprocess.Popen(
                tied_to_parent(argv),
                env=dict(env),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE if captures_stdout else subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as error:
            raise StackError(f"cannot start {name} ({argv[0]}): {error.strerror}") from error
        self.pid = self._popen.pid
        assert self._popen.stdout is not None
        readers = [(self._capture if captures_stdout else self._copy_to_log, self._popen.stdout)]
        if self._popen.stderr is not None:
            readers.append((self._copy_to_log, self._popen.stderr))
        self._threads = [
            threading.Thread(target=read, args=(pipe,), name=f"read-{name}", daemon=True)
            for read, pipe in readers
        ]
        for thread in self._threads:
            thread.start()

    def _copy_to_log(self, pipe: IO[bytes]) -> None:
        for line in iter(lambda: pipe.readline(_LINE_BYTES), b""):
            self._log.line(self.name, line.decode("utf-8", "replace").rstrip("\r\n"))
        pipe.close()
        self._on_output_end()

    def _capture(self, pipe: IO[bytes]) -> None:
        self._captured = pipe.read()
        pipe.close()

    def exit_code(self) -> int | None:
        """Return the exit status, negative for a signal, or None while it runs."""
        return self._popen.poll()

    def output(self) -> str:
        """Return what an ended process wrote to its captured stdout."""
        self._join()
        return self._captured.decode("utf-8", "replace")

    def terminate(self) -> None:
        """Send SIGTERM to the whole group, unless it was killed."""
        if not self._is_over:
            self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """End whatever is left of the group at once and reap it. Safe to call again."""
        if self._is_over:  # the number may be another group's by now
            return
        # Also after the leader has ended: what it started may still live in its group.
        self._signal(signal.SIGKILL)
        self._popen.wait()
        self._is_over = True
        self._join()

    def _signal(self, number: signal.Signals) -> None:
        # macOS answers EPERM for a group of zombies.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)

    def _join(self) -> None:
        for thread in self._threads:
            thread.join(_DRAIN_S)
