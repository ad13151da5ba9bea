"""How far submissions are. Small ones are counted when somebody looks; a large one, which takes seconds, in
the background, one at a time, and not again before twenty times as long as it took.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final
from uuid import UUID

from sqlalchemy import Connection

from alexq_monitor.sources import Sources
from alexq_schema.db import tallies
from alexq_schema.db.tallies import Cancellation, Handed, Tally
from alexq_schema.errors import AlexqError
from alexq_schema.job import JobState

log = logging.getLogger("alexq.monitor")

LARGE: Final = 20_000
"""Jobs above which a submission is counted in the background."""
KEPT: Final = 200
"""Large submissions whose numbers are kept."""
LABELS: Final = 10
COUNT_S: Final = 60.0
AGAIN_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class Numbers:
    """A submission's numbers."""

    tally: Tally
    labels: list[tuple[str, int]]
    """The most frequent; empty where they were not asked for."""
    cancellations: list[Cancellation]


@dataclass(slots=True)
class _Known:
    numbers: Numbers | None
    again_at: float


class Tallies:
    """Numbers of submissions. For one event loop."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources
        self._known: OrderedDict[UUID, _Known] = OrderedDict()
        self._turn = asyncio.Lock()
        self._counting: set[asyncio.Task[None]] = set()

    async def of_all(self, handed: Sequence[Handed]) -> dict[UUID, Tally]:
        """Return the tallies that are known; a large one that is missing is being counted.

        Raises:
            DatabaseUnavailableError: the database does not answer.
        """
        small = [one.id for one in handed if one.total <= LARGE]
        found = await self._sources.read(lambda c: tallies.tally(c, small)) if small else {}
        for one in handed:
            if one.total > LARGE and (numbers := self._large(one.id)) is not None:
                found[one.id] = numbers.tally
            elif one.total <= LARGE:
                found.setdefault(one.id, Tally())
        return found

    async def of(self, handed: Handed) -> Numbers | None:
        """Return the numbers of one submission, labels included; None while it is being counted.

        Raises:
            DatabaseUnavailableError: the database does not answer.
        """
        if handed.total > LARGE:
            return self._large(handed.id)
        return await self._sources.read(partial(_count, submission_id=handed.id))

    def _large(self, submission_id: UUID) -> Numbers | None:
        known = self._known.setdefault(submission_id, _Known(None, 0.0))
        self._known.move_to_end(submission_id)
        while len(self._known) > KEPT:
            self._known.popitem(last=False)
        if time.monotonic() > known.again_at:
            known.again_at = time.monotonic() + COUNT_S + AGAIN_S  # nobody else begins meanwhile
            task = asyncio.ensure_future(self._count_large(submission_id, known))
            self._counting.add(task)
            task.add_done_callback(self._counting.discard)
        return known.numbers

    async def _count_large(self, submission_id: UUID, known: _Known) -> None:
        async with self._turn:
            began_at = time.monotonic()
            try:
                known.numbers = await self._sources.read(
                    partial(_count, submission_id=submission_id), limit_s=COUNT_S
                )
            except AlexqError as error:
                log.warning("submission %s: %s", submission_id, error)
            took_s = time.monotonic() - began_at
            known.again_at = time.monotonic() + max(AGAIN_S, 20 * took_s)


def _count(connection: Connection, submission_id: UUID) -> Numbers:
    counted = tallies.tally(connection, [submission_id]).get(submission_id, Tally())
    cancelled = JobState.CANCELLED in counted.counts
    return Numbers(
        counted,
        tallies.labels(connection, submission_id, LABELS),
        tallies.cancellations(connection, submission_id) if cancelled else [],
    )
