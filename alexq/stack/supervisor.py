"""Keeps child processes running: start in order, restart with backoff, stop in reverse.

Written here because the libraries at hand do less or much more: honcho ends every process when one
dies and never restarts, circus brings ZeroMQ and is no longer maintained.

Threads: everything here runs in the thread that calls it, which must be one and the same for the
supervisor's whole life (see :mod:`alexq.stack.process`). Only :meth:`Supervisor.request_stop` may be
called from a signal handler or another thread.
"""

from __future__ import annotations

import contextlib
import queue
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from alexq.stack.log import Log
from alexq.stack.process import Process, describe_exit
from alexq_schema.errors import StackError

FIRST_DELAY_S: Final = 0.5
MAX_DELAY_S: Final = 30.0
HEALTHY_AFTER_S: Final = 60.0
"""A child that has served this long starts again with the first delay."""
_LOOK_EVERY_S: Final = 0.2


@dataclass(frozen=True)
class Child:
    """A process to keep running."""

    name: str
    argv: Sequence[str]
    env: Mapping[str, str]
    is_ready: Callable[[int], bool]
    """Given its pid: whether it serves. Answers within a second or two and raises nothing."""
    ready_timeout_s: float = 60.0
    grace_s: float = 10.0
    """Time between SIGTERM and SIGKILL."""
    is_healthy: Callable[[int], bool] = lambda _pid: True
    """Given its pid, once it is ready: whether it still gets on. If not, it is killed and restarted."""


def restart_delay_s(failures: int) -> float:
    """Return the pause before the restart that follows the ``failures``-th failure in a row (from 1)."""
    return min(MAX_DELAY_S, FIRST_DELAY_S * 2.0 ** min(failures - 1, 10))


@dataclass
class _Kept:
    """A child and what the supervisor knows of its present process."""

    child: Child
    process: Process | None = None
    started_at: float = 0.0
    ready_at: float | None = None
    failures: int = 0
    restart_at: float = 0.0


class Supervisor:
    """Owns the children's processes from :meth:`start` to :meth:`stop`."""

    def __init__(self, log: Log, clock: Callable[[], float] = time.monotonic) -> None:
        self._log = log
        self._clock = clock
        self._kept: list[_Kept] = []
        self._stop_requests = 0
        # SimpleQueue.put is reentrant; an Event set in a signal handler can deadlock its own waiter.
        self._wakeups: queue.SimpleQueue[None] = queue.SimpleQueue()

    def request_stop(self) -> None:
        """Ask for a clean stop; asked again, for an immediate one. May be called in a signal handler."""
        self._stop_requests += 1
        self._wakeups.put(None)

    @property
    def is_stopping(self) -> bool:
        """Return whether a stop was asked for."""
        return self._stop_requests > 0

    def pid(self, name: str) -> int | None:
        """Return the process id of the child ``name``, or None while it has no process."""
        for kept in self._kept:
            if kept.child.name == name and kept.process is not None:
                return kept.process.pid
        return None

    def start(self, child: Child) -> bool:
        """Start ``child`` and return True once it is ready, False if a stop was asked for before.

        Raises:
            StackError: it ended, or was not ready within its ``ready_timeout_s``.
        """
        return self.start_all([child])

    def start_all(self, children: Sequence[Child]) -> bool:
        """Start ``children`` at once; return True when all are ready, False if a stop was asked for before.

        Raises:
            StackError: one ended before, or was not ready within its ``ready_timeout_s``.
        """
        others, new = list(self._kept), [_Kept(child) for child in children]
        self._kept += new
        if self.is_stopping:
            return False
        for kept in new:
            self._spawn(kept)
        waiting = new
        while not self.is_stopping:
            waiting = [kept for kept in waiting if not self._has_begun(kept)]
            if not waiting:
                return True
            for other in [*others, *(kept for kept in new if kept.ready_at is not None)]:
                self._look_at(other)
            self._pause(_LOOK_EVERY_S)
        return False

    def _has_begun(self, kept: _Kept) -> bool:
        """Return whether a child that was started for the first time is ready; raise if it never will be."""
        process, name = kept.process, kept.child.name
        assert process is not None
        code = process.exit_code()
        if code is not None:
            process.kill()
            raise StackError(
                f"{name} did not start: it ended with {describe_exit(code)}; its last lines say why"
            )
        if self._became_ready(kept):
            return True
        if self._is_overdue(kept):
            raise StackError(f"{name} was not ready within {kept.child.ready_timeout_s:.0f} s")
        return False

    def run_to_end(
        self, name: str, argv: Sequence[str], env: Mapping[str, str], timeout_s: float
    ) -> str | None:
        """Run a command to its end; return its stdout, or None if a stop was asked for before.

        Raises:
            StackError: it failed, or took longer than ``timeout_s``.
        """
        if self.is_stopping:
            return None
        process = Process(
            name, argv, env, self._log, captures_stdout=True, on_output_end=lambda: self._wakeups.put(None)
        )
        deadline = self._clock() + timeout_s
        try:
            while (code := process.exit_code()) is None:
                if self.is_stopping:
                    return None
                if self._clock() > deadline:
                    raise StackError(f"{name} took longer than {timeout_s:.0f} s")
                self.check()
                self._pause(_LOOK_EVERY_S)
        finally:
            process.kill()
        if code != 0:
            raise StackError(f"{name} ended with {describe_exit(code)}; its last lines say why")
        return process.output()

    def watch(self) -> None:
        """Keep the children running until a stop is asked for."""
        while not self.is_stopping:
            self.check()
            self._pause(_LOOK_EVERY_S)

    def check(self) -> None:
        """Look at every child once: note deaths, restart what is due, note readiness."""
        for kept in self._kept:
            if not self.is_stopping:
                self._look_at(kept)

    def stop(self, *, together: bool = False) -> dict[str, int]:
        """End every child, the last started first; return when none is left, with how those ended that ran.

        Each gets SIGTERM and its ``grace_s``, then SIGKILL for its whole group; after a second
        :meth:`request_stop` SIGKILL at once. Idempotent.

        Args:
            together: let all begin to end at once, as none needs another.
        """
        self._stop_requests = max(1, self._stop_requests)
        codes: dict[str, int] = {}
        if together:
            for kept in self._kept:
                if kept.process is not None:
                    kept.process.terminate()
        while self._kept:
            kept = self._kept[-1]
            if kept.process is not None:
                if not together:
                    kept.process.terminate()
                codes[kept.child.name] = self._end(kept.child, kept.process)
            self._kept.pop()
        return codes

    def _end(self, child: Child, process: Process) -> int:
        """Wait for the end of a process that was told to end, and return its exit status."""
        deadline = self._clock() + child.grace_s
        while process.exit_code() is None and self._stop_requests < 2:
            if self._clock() > deadline:
                self._log.warn(f"{child.name} is still there after {child.grace_s:.0f} s: killed")
                break
            self._pause(_LOOK_EVERY_S)
        process.kill()
        code = process.exit_code()
        assert code is not None, "it was reaped"
        return code

    def _look_at(self, kept: _Kept) -> None:
        now = self._clock()
        if kept.process is None:
            if now >= kept.restart_at:
                self._restart(kept)
            return
        code = kept.process.exit_code()
        if code is not None:
            self._plan_restart(kept, f"ended with {describe_exit(code)}")
        elif kept.ready_at is None:
            if self._became_ready(kept):
                self._log.say(f"{kept.child.name} is ready again")
            elif self._is_overdue(kept):
                self._plan_restart(kept, f"was not ready within {kept.child.ready_timeout_s:.0f} s")
        elif not kept.child.is_healthy(kept.process.pid):
            self._plan_restart(kept, "does not get on any more: killed")
        elif kept.failures and now - kept.ready_at >= HEALTHY_AFTER_S:
            kept.failures = 0

    def _restart(self, kept: _Kept) -> None:
        try:
            self._spawn(kept)
        except StackError as error:
            self._plan_restart(kept, str(error))

    def _spawn(self, kept: _Kept) -> None:
        child = kept.child
        kept.ready_at = None
        kept.started_at = self._clock()
        kept.process = Process(
            child.name, child.argv, child.env, self._log, on_output_end=lambda: self._wakeups.put(None)
        )

    def _plan_restart(self, kept: _Kept, reason: str) -> None:
        if kept.process is not None:
            kept.process.kill()
            kept.process = None
        kept.failures += 1
        delay_s = restart_delay_s(kept.failures)
        kept.restart_at = self._clock() + delay_s
        self._log.warn(f"{kept.child.name} {reason}; restart in {delay_s:g} s")

    def _became_ready(self, kept: _Kept) -> bool:
        if kept.process is None or not kept.child.is_ready(kept.process.pid):
            return False
        kept.ready_at = self._clock()
        return True

    def _is_overdue(self, kept: _Kept) -> bool:
        return self._clock() - kept.started_at > kept.child.ready_timeout_s

    def _pause(self, timeout_s: float) -> None:
        """Wait until something may have happened: a stop was asked for, or a child closed its output."""
        with contextlib.suppress(queue.Empty):
            self._wakeups.get(timeout=timeout_s)
