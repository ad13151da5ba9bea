"""Waiting for jobs on the event loop: announcements wake it, and no thread waits with anyone."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from uuid import UUID

from alexq_producer.announcements import Listener
from alexq_producer.gateway.core import Core
from alexq_producer.submission import RECHECK_S, SILENCE_S
from alexq_schema.job import Job

READ_AT_ONCE = 500
"""Jobs read in one piece."""


class Waiter:
    """One request that waits for jobs; made by :func:`waiting_for`."""

    def __init__(self, core: Core, listener: Listener, told: asyncio.Event, job_ids: Sequence[UUID]) -> None:
        self._core = core
        self._listener = listener
        self._told = told
        self._pending = dict.fromkeys(job_ids)  # a set that keeps its order

    @property
    def is_over(self) -> bool:
        """Return whether every job has been yielded."""
        return not self._pending

    async def finished(self, timeout_s: float) -> AsyncIterator[Job]:
        """Yield each job once as it reaches a terminal state; ends and raises as :meth:`pieces`."""
        async for jobs in self.pieces(timeout_s):
            for job in jobs:
                yield job

    async def pieces(self, timeout_s: float, tick_s: float = SILENCE_S) -> AsyncIterator[Sequence[Job]]:
        """Yield jobs, each once, as they reach a terminal state, until all have or ``timeout_s`` is over.

        Those that have at the start come in the order in which they were given to :func:`waiting_for`.
        A piece is empty where no job has come for ``tick_s``. A gateway that stops ends it early, within
        ``SILENCE_S``.

        Raises:
            DatabaseUnavailableError: the database does not answer.
        """
        deadline = time.monotonic() + timeout_s
        jobs: Sequence[Job] = []
        unread: Sequence[UUID] = list(self._pending)
        checked_at = time.monotonic()
        while True:
            if new := self._new(jobs):
                yield new
            wanted = [job_id for job_id in unread if job_id in self._pending]
            for start in range(0, len(wanted), READ_AT_ONCE):
                piece = wanted[start : start + READ_AT_ONCE]
                if new := self._new(await self._core.call(self._core.reader.finished, piece)):
                    yield new
            left_s = deadline - time.monotonic()
            if not self._pending or left_s <= 0 or self._core.is_stopping:
                return
            silent_at = time.monotonic() + self._listener.patience_s(min(SILENCE_S, left_s))
            while not await self._is_told(min(tick_s, silent_at - time.monotonic())):
                if time.monotonic() >= silent_at or self._core.is_stopping:
                    break
                yield ()
            self._told.clear()
            jobs, unread = self._listener.take()
            if not (jobs or unread) or time.monotonic() - checked_at > RECHECK_S:
                unread, checked_at = list(self._pending), time.monotonic()

    async def _is_told(self, within_s: float) -> bool:
        with self._listener.waiting(), suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await self._told.wait()
        return self._told.is_set()

    def _new(self, jobs: Sequence[Job]) -> Sequence[Job]:
        new = []
        for job in jobs:
            if job.job_id in self._pending:
                del self._pending[job.job_id]
                new.append(job)
        return new


@asynccontextmanager
async def waiting_for(core: Core, waited_for: UUID, job_ids: Sequence[UUID]) -> AsyncIterator[Waiter]:
    """Hear what is announced of these jobs from now on.

    Args:
        waited_for: their submission's id, or a lone job's own.
    """
    told = asyncio.Event()
    listening = core.announcements.of(waited_for, job_ids, woken=_waker(told))
    listener = await core.call(listening.__enter__)
    try:
        yield Waiter(core, listener, told, job_ids)
    finally:
        listening.__exit__(None, None, None)


def _waker(told: asyncio.Event) -> Callable[[], None]:
    loop = asyncio.get_running_loop()

    def wake() -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(told.set)

    return wake
