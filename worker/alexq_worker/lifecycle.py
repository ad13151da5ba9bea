"""What a worker does beside its work: shows that it lives, and announces what is finished."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable
from uuid import UUID

import redis

from alexq_schema.announcing import announce
from alexq_schema.db import workers
from alexq_schema.db.session import Database
from alexq_schema.db.workers import Vitals
from alexq_schema.errors import AlexqError

log = logging.getLogger("alexq.worker")


class Heartbeat:
    """Renews the worker's row, and knows since when the database has answered without a gap."""

    def __init__(
        self,
        database: Database,
        worker_id: UUID,
        *,
        every_s: float,
        silent_after_s: float,
        vitals: Callable[[], Vitals],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._worker_id = worker_id
        self._every_s = every_s
        self._vitals = vitals
        self._clock = clock
        self._silent_after_s = silent_after_s
        self._beat_at: float | None = None
        self._may_judge_from = math.inf

    def beat(self) -> None:
        """Renew the row."""
        started = self._clock()
        if self._beat_at is None:  # the first: whoever lives renews its row within two beats
            self._may_judge_from = started + 2 * self._every_s
        try:
            with self._database.begin() as connection:
                workers.renew(connection, self._worker_id, self._vitals())
        except AlexqError:
            self._note_gap()
            raise
        now = self._clock()
        if self._beat_at is not None and now - self._beat_at > 3 * self._every_s:
            self._note_gap()
        self._beat_at = now

    def _note_gap(self) -> None:
        self._beat_at = self._clock()
        self._may_judge_from = self._beat_at + self._silent_after_s

    @property
    def may_judge_silence(self) -> bool:
        """Return whether other workers' silence means anything.

        It does not after a time in which the database did not answer, or in which this process was
        stopped: then every row is old, and those who live need time to renew theirs.
        """
        now = self._clock()
        # A beat that hangs at this moment has not been noted yet.
        is_answered = self._beat_at is not None and now - self._beat_at <= 3 * self._every_s
        return is_answered and now >= self._may_judge_from


class Notifier:
    """Announces finished jobs; a lost announcement costs those who wait time only."""

    def __init__(self, client: redis.Redis) -> None:
        self._redis = client

    def announce(self, finished: Iterable[tuple[UUID | None, UUID]]) -> None:
        """Announce (submission id, job id) pairs: one round trip."""
        try:
            announce(self._redis, finished)
        except (redis.RedisError, OSError) as error:
            log.warning("could not announce finished jobs: %s", error)
