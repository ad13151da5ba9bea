"""How many jobs came in and ended in each minute of the last week, in the monitor's memory.

A minute is closed when it has been over for a minute: what ended in it is read once, then never again. A
job that is redriven ended in the minute in which it was dead, and ends once more when it is done; after a
restart of the monitor only the last end is known, as SQL keeps no other. What came in is read again for ten
minutes, as a long submission inserts its rows later than its ids say.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from sqlalchemy import Connection

from alexq_monitor.sources import Sources
from alexq_schema.db import minutes
from alexq_schema.db.minutes import Ended
from alexq_schema.errors import AlexqError
from alexq_schema.job import TERMINAL_STATES, JobState

log = logging.getLogger("alexq.monitor")

KEPT: Final = 7 * 24 * 60
"""Minutes that are kept."""
LATE: Final = 10
"""Minutes for which rows of earlier ids may still be inserted."""
PIECE: Final = 10
"""Minutes that are read at a time."""
EVERY_S: Final = 20.0
FAILURES: Final = (JobState.FAILED, JobState.DEAD, JobState.EXPIRED)


@dataclass(frozen=True, slots=True)
class Counts:
    """What happened in some minutes."""

    came_in: int = 0
    succeeded: int = 0
    failed: int = 0
    """Failed, dead or expired."""
    ended: int = 0
    batches: float = 0.0
    images: int = 0
    """Jobs that had a place in a batch."""

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            self.came_in + other.came_in,
            self.succeeded + other.succeeded,
            self.failed + other.failed,
            self.ended + other.ended,
            self.batches + other.batches,
            self.images + other.images,
        )


@dataclass(frozen=True, slots=True)
class Piece:
    """What was read of some minutes: ``first`` ≤ minute < ``after``."""

    first: int
    after: int
    ended: Mapping[int, Ended]
    in_first: int
    """What came in was read from here, to the same end."""
    came_in: Mapping[int, int]


def read_piece(connection: Connection, first: int, after: int, in_first: int) -> Piece:
    """Read what ended from ``first`` on, and what came in from ``in_first`` on, before ``after``."""
    ended = minutes.ended(connection, first, after)
    return Piece(first, after, ended, in_first, minutes.came_in(connection, in_first, after))


@dataclass(slots=True)
class History:
    """Counts by minute. For one thread."""

    known_from: int | None = None
    """The first minute that was read; None before the first piece."""
    closed_until: int = 0
    """Minutes before this are closed."""
    is_whole: bool = False
    """All that the week has was read."""
    _ended: dict[int, Ended] = field(default_factory=dict)
    _came_in: dict[int, int] = field(default_factory=dict)

    def put(self, piece: Piece) -> None:
        """Take in what was read; it replaces what was known of those minutes."""
        for minute in range(piece.first, piece.after):
            self._ended.pop(minute, None)
        for minute in range(piece.in_first, piece.after):
            self._came_in.pop(minute, None)
        self._ended.update(piece.ended)
        self._came_in.update(piece.came_in)
        if self.known_from is None or piece.first < self.known_from:
            self.known_from = piece.first

    def forget_before(self, minute: int) -> None:
        """Drop what is older."""
        for known in (self._ended, self._came_in):
            for old in [one for one in known if one < minute]:
                del known[old]
        if self.known_from is not None:
            self.known_from = max(self.known_from, minute)

    def counts(self, first: int, after: int) -> Counts:
        """Return the sum of the minutes ``first`` ≤ minute < ``after``."""
        came_in = succeeded = failed = all_ended = images = 0
        batches = 0.0
        for minute in range(first, after):  # ten thousand for a chart: no object for each
            came_in += self._came_in.get(minute, 0)
            ended = self._ended.get(minute)
            if ended is not None:
                came_in += ended.unnumbered
                succeeded += ended.states.get(JobState.SUCCEEDED, 0)
                failed += sum(ended.states.get(state, 0) for state in FAILURES)
                all_ended += sum(ended.states.values())
                batches += ended.batches
                images += ended.images
        return Counts(came_in, succeeded, failed, all_ended, batches, images)

    def states(self, first: int, after: int) -> dict[JobState, int]:
        """Return how many jobs ended in each state in the minutes ``first`` ≤ minute < ``after``."""
        known = [ended.states for minute in range(first, after) if (ended := self._ended.get(minute))]
        return {state: sum(one.get(state, 0) for one in known) for state in TERMINAL_STATES}

    def series(self, this_minute: int, *, step: int, points: int) -> list[tuple[int, Counts]]:
        """Return ``points`` sums of ``step`` minutes, oldest first, the last with the present minute in it.

        Each with the minute that it begins at, a multiple of ``step``.
        """
        last = this_minute // step * step
        firsts = range(last - (points - 1) * step, last + 1, step)
        return [(first, self.counts(first, first + step)) for first in firsts]


def open_from(history: History, this_minute: int) -> int:
    """Return the minute from which a look at the present reads what ended."""
    return max(history.closed_until, this_minute - PIECE)


class Recorder:
    """Keeps a history up to date: the present first, then back to a week ago, a piece at a time."""

    def __init__(self, sources: Sources, history: History) -> None:
        self._sources, self._history = sources, history

    async def run(self) -> None:
        """Read for as long as the loop runs; a database that is away is asked again later."""
        while True:
            try:
                await self._close_minutes()
                while not self._history.is_whole:
                    await self._go_back()
                    await asyncio.sleep(0)
            except AlexqError as error:
                log.warning("history: %s", error)
            except Exception:
                log.exception("history: it goes on in %s s", EVERY_S)
            await asyncio.sleep(EVERY_S)

    async def _close_minutes(self) -> None:
        history = self._history
        until = await self._sources.read(minutes.this_minute) - 1
        first = max(history.closed_until, until - KEPT) if history.closed_until else until - PIECE
        while first < until:
            after = min(first + PIECE, until)
            in_first = min(first, until - LATE)
            read = partial(read_piece, first=first, after=after, in_first=in_first)
            history.put(await self._sources.read(read))
            first = history.closed_until = after
        history.forget_before(until - KEPT)

    async def _go_back(self) -> None:
        history = self._history
        assert history.known_from is not None
        oldest = await self._sources.read(minutes.oldest)
        floor = history.closed_until - KEPT
        floor = floor if oldest is None else max(floor, oldest)
        after = history.known_from
        first = max(floor, after - PIECE)
        if oldest is not None and first < after:
            history.put(await self._sources.read(lambda c: read_piece(c, first, after, first)))
        else:
            history.is_whole = True
