"""Waiting for jobs on the event loop: announcements wake it, and no thread waits with anyone."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
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
        self._pending = dict.fromkeys(job_ids)

    async def finished(self, timeout_s: float) -> AsyncIterator[Job]:
        """Yield each job once as it reaches a terminal state, until all have or ``timeout_s`` is over.

        A gateway that stops ends it early, within ``SILENCE_S``.

        Raises:
            DatabaseUnavailableError: the database does not answer.
        """
        deadline = time.monotonic() + timeout_s
        jobs: Sequence[Job] = []
        unread: Sequence[UUID] = list(self._pending)
        checked_at = time.monotonic()
        while True:
            for job in self._new(jobs):
                yield job
            wanted = [job_id for job_id in unread if job_id in self._pending]
            for start in range(0, len(wanted), READ_AT_ONCE):
                piece = wanted[start : start + READ_AT_ONCE]
                for job in self._new(await self._core.call(self._core.reader.finished, piece)):
                    yield job
            left_s = deadline - time.monotonic()
            if not self._pending or left_s <= 0 or self._core.is_stopping:
                return
            with self._listener.waiting(), suppress(TimeoutError):
                async with asyncio.timeout(self._listener.patience_s(min(SILENCE_S, left_s))):
                    await self._told.wait()
            self._told.clear()
            jobs, unread = self._listener.take()
            if not (jobs or unread) or time.monotonic() - checked_at > RECHECK_S:
                unread, checked_at = list(self._pending), time.monotonic()

    def _new(self, jobs: Sequence[Job]) -> Iterator[Job]:
        for job in jobs:
            if job.job_id in self._pending:
                del self._pending[job.job_id]
                yield job


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
