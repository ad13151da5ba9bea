"""Something that is read again when it has become old: by one reader, for all who ask."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable
from typing import Final

FRESH_S: Final = 1.0
"""How long what was read is fresh, at least."""

SHARE: Final = 0.05
"""Of the time that reading takes, at most: what is slow to read stays fresh for longer."""

STALE: Final = 5.0
"""Age, in times of being fresh, from which on it is waited for."""

log = logging.getLogger("alexq.gateway")


class Refreshed:
    """Decides when to read; belongs to the event loop."""

    def __init__(
        self, read: Callable[[], Awaitable[None]], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._read = read
        self._clock = clock
        self._read_at = -math.inf
        self._fresh_s = FRESH_S
        self._reading: asyncio.Task[None] | None = None

    async def ensure(self) -> None:
        """Return when it was read not long ago.

        Who asks when it is no longer fresh lets it be read, and goes on with what there is. Only the first
        waits, and who asks when nobody has for long; then it raises what ``read`` raises.
        """
        age_s = self._clock() - self._read_at
        if age_s < self._fresh_s:
            return
        if self._reading is None:
            self._reading = asyncio.create_task(self._refresh())
            self._reading.add_done_callback(self._end)
        if age_s >= STALE * self._fresh_s:
            await asyncio.shield(self._reading)

    async def _refresh(self) -> None:
        began_at = self._clock()
        await self._read()
        self._read_at = began_at
        self._fresh_s = max(FRESH_S, (self._clock() - began_at) / SHARE)

    def _end(self, reading: asyncio.Task[None]) -> None:
        self._reading = None
        if not reading.cancelled() and (error := reading.exception()) is not None:
            log.warning("the backlog could not be counted: %s", error)
