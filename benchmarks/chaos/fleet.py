"""Worker processes, and a small supervisor that starts again what ends.

The supervisor is a thread of its own; everything else is called from the scenario's thread.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from alexq.stack.environment import environment
from alexq_schema.settings import Settings
from benchmarks.chaos.nursery import Child, Nursery
from benchmarks.chaos.processes import InterruptedCampaignError, Processes, kill_tree, signal_tree, tail

RESTART_AFTER_S = 0.5
READY_S = 300.0
WORKER = ("-m", "alexq_worker")


@dataclass(frozen=True)
class Death:
    """A worker process that was killed by us."""

    pid: int
    at: float
    """Unix time."""


@dataclass
class Member:
    """One place in the fleet: a process, then the one that replaces it."""

    number: int
    program: Sequence[str]
    """The interpreter's arguments: ``-m``, a module, its arguments."""
    env: dict[str, str]
    log: Path
    process: subprocess.Popen[bytes] | Child
    log_start: int
    """Where the present process's lines begin in the log, in bytes."""
    restarts: bool
    is_fresh: bool
    """Whether it needs an interpreter of its own, because its environment changes what is imported."""
    exits: list[tuple[int, float]] = field(default_factory=list)
    """Exit code and Unix time of every process that has ended."""

    @property
    def pid(self) -> int:
        """The present process id."""
        return self.process.pid


class Fleet:
    """Workers of one scenario; ``restarting`` false leaves ended ones alone."""

    def __init__(
        self,
        processes: Processes,
        settings: Settings,
        folder: Path,
        rng: random.Random,
        nursery: Nursery,
    ) -> None:
        self._processes = processes
        self._nursery = nursery
        self._settings = settings.model_copy(update={"log_format": "json"})
        self._folder = folder
        self._rng = rng
        self._lock = threading.Lock()
        self.members: list[Member] = []
        self.kills: list[Death] = []
        self.restarting = True
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._supervise, name=f"fleet-{folder.name}", daemon=True)
        self._thread.start()

    def add(
        self,
        count: int = 1,
        program: Sequence[str] = WORKER,
        env: dict[str, str] | None = None,
        restarts: bool = True,
        **overrides: object,
    ) -> list[Member]:
        """Start workers; they need some seconds until they are :meth:`wait_ready`."""
        settings = self._settings.model_copy(update=overrides)
        # One compute thread each: a fleet shares this machine's few cores.
        variables = environment(settings) | {"OMP_NUM_THREADS": "1"} | (env or {})
        added = []
        for _ in range(count):
            number = len(self.members)
            log = self._folder / f"worker-{number}.log"
            process = self._start(program, log, variables, is_fresh=env is not None)
            member = Member(number, program, variables, log, process, 0, restarts, env is not None)
            with self._lock:
                self.members.append(member)
            added.append(member)
        return added

    def _start(
        self, program: Sequence[str], log: Path, env: dict[str, str], *, is_fresh: bool
    ) -> subprocess.Popen[bytes] | Child:
        if is_fresh:
            return self._processes.start([sys.executable, *program], log=log, env=env)
        return self._nursery.start(program, log=log, env=env)

    def wait_ready(self, members: Sequence[Member] | None = None, timeout_s: float = READY_S) -> None:
        """Wait until the log of each present process says that it is ready."""
        for member in members if members is not None else list(self.members):
            try:
                self._processes.wait_for(partial(self._is_ready, member), timeout_s, what="it is ready")
            except TimeoutError as error:
                raise TimeoutError(f"worker {member.number} is not ready: {tail(member.log)}") from error

    @staticmethod
    def _is_ready(member: Member) -> bool:
        if not member.restarts and member.process.poll() is not None:
            raise RuntimeError(f"worker {member.number} does not start: {tail(member.log)}")
        return any(
            str(line.get("event", "")).startswith("ready") for line in lines(member.log, member.log_start)
        )

    def kill_random(self) -> Death | None:
        """Kill a ready member chosen by the seed, and its children; never the last one, which could not tell.

        Returns:
            None when fewer than two were ready.
        """
        ready = [member for member in self.members if self._works(member)]
        return self.kill(self._rng.choice(ready)) if len(ready) > 1 else None

    def _works(self, member: Member) -> bool:
        return member.process.poll() is None and self._is_ready(member)

    def kill(self, member: Member) -> Death:
        """SIGKILL one member and its children."""
        death = Death(member.pid, time.time())
        kill_tree(member.pid)
        self.kills.append(death)
        return death

    def pause(self, member: Member) -> None:
        """SIGSTOP one member."""
        signal_tree(member.pid, signal.SIGSTOP)

    def resume(self, member: Member) -> None:
        """SIGCONT."""
        signal_tree(member.pid, signal.SIGCONT)

    def restart(self, member: Member, timeout_s: float = 120.0) -> int:
        """SIGTERM one member; return its exit code once its successor is ready."""
        before = len(member.exits)
        os.kill(member.pid, signal.SIGTERM)
        self._processes.wait_for(
            lambda: len(member.exits) > before, timeout_s, what="a worker stops on SIGTERM"
        )
        self._processes.wait_for(
            lambda: member.process.poll() is None, 10, what="the supervisor starts its successor"
        )
        self.wait_ready([member])
        return member.exits[before][0]

    def retire(self, member: Member, timeout_s: float = 45.0) -> int:
        """SIGTERM one member, for good; return its exit code."""
        member.restarts = False
        os.kill(member.pid, signal.SIGTERM)
        return member.process.wait(timeout_s)

    def stop(self, timeout_s: float = 45.0) -> list[int]:
        """SIGTERM all that run; return their exit codes. Killed after ``timeout_s``."""
        self._stop.set()
        self._thread.join(10)
        running = [member for member in self.members if member.process.poll() is None]
        for member in running:
            signal_tree(member.pid, signal.SIGCONT)
            with suppress(ProcessLookupError):
                os.kill(member.pid, signal.SIGTERM)
        deadline = time.monotonic() + timeout_s
        codes = []
        for member in running:
            try:
                codes.append(member.process.wait(max(0.1, deadline - time.monotonic())))
            except subprocess.TimeoutExpired:
                kill_tree(member.pid)
                codes.append(member.process.wait(10))
        return codes

    def lines(self, event: str) -> list[dict[str, Any]]:
        """Return all members' JSON log records of one event."""
        return [line for member in self.members for line in lines(member.log) if line.get("event") == event]

    def _supervise(self) -> None:
        while not self._stop.wait(0.1):
            for member in list(self.members):
                code = member.process.poll()
                if code is None or not (self.restarting and member.restarts):
                    continue
                member.exits.append((code, time.time()))
                if self._stop.wait(RESTART_AFTER_S):
                    return
                with suppress(InterruptedCampaignError):
                    member.log_start = member.log.stat().st_size
                    member.process = self._start(
                        member.program, member.log, member.env, is_fresh=member.is_fresh
                    )


def lines(log: Path, start: int = 0) -> Iterator[dict[str, Any]]:
    """Yield the JSON records of a log from this byte on; other lines are skipped."""
    with suppress(OSError), log.open(errors="replace") as file:
        file.seek(start)
        for line in file:
            if line.startswith("{"):
                with suppress(json.JSONDecodeError):
                    yield json.loads(line)
