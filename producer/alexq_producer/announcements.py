"""Hearing from workers that jobs have finished: Redis pub/sub, one channel a submission.

An announcement is a hint, never the truth: the listener's caller reads the jobs from the database,
and asks it anyway from time to time, so that a lost announcement or a dead Redis costs time only.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from uuid import UUID

import redis
from redis.client import PubSub

from alexq_schema.announcing import announce
from alexq_schema.errors import MessageError
from alexq_schema.messages import Finished
from alexq_schema.names import finished_channel

FIRST_RETRY_S = 0.5
LAST_RETRY_S = 5.0
"""Pauses, each twice the last, before Redis and the database are asked again while Redis is away."""

log = logging.getLogger("alexq.producer")


class Announcements:
    """Opens listeners; one connection pool for all of them."""

    def __init__(self, broker_url: str, timeout_s: float) -> None:
        self._redis = redis.Redis.from_url(
            broker_url, socket_connect_timeout=timeout_s, socket_timeout=timeout_s
        )

    def announce(self, finished: Iterable[tuple[UUID | None, UUID]]) -> None:
        """Tell who waits that these (submission id, job id) have ended; a silent Redis is only logged."""
        try:
            announce(self._redis, finished)
        except (redis.RedisError, OSError) as error:
            log.warning("could not announce finished jobs: %s", error)

    @contextmanager
    def of(self, submission_id: UUID) -> Iterator[Listener]:
        """Open a listener: what is announced from now on will be heard."""
        pubsub = self._redis.pubsub()  # type: ignore[no-untyped-call]
        try:
            yield Listener(pubsub, finished_channel(submission_id))
        finally:
            with suppress(redis.RedisError, OSError):
                pubsub.close()

    def close(self) -> None:
        """Close every connection."""
        self._redis.close()


class Listener:
    """One subscription; used by one thread."""

    def __init__(self, pubsub: PubSub, channel: str) -> None:
        self._pubsub = pubsub
        self._channel = channel
        self._retry_s = FIRST_RETRY_S
        self._is_subscribed = False
        with suppress(redis.RedisError, OSError):
            self._subscribe()

    def _subscribe(self) -> None:
        self._pubsub.subscribe(self._channel)
        confirmation = self._pubsub.get_message(timeout=FIRST_RETRY_S)
        # From the confirmation on nothing is missed.
        self._is_subscribed = confirmation is not None and confirmation["type"] == "subscribe"

    def next(self, timeout_s: float) -> Sequence[UUID]:
        """Return job ids that were announced: of all announcements there are, after waiting for one.

        Returns:
            Empty after ``timeout_s`` of silence, or sooner when something may have been missed.
        """
        try:
            if not self._is_subscribed:
                self._subscribe()
                return self._after_a_pause(timeout_s) if not self._is_subscribed else []
            job_ids = self._read(timeout_s)
            while job_ids and (more := self._read(0.0)):
                job_ids += more
        except (redis.RedisError, OSError):
            self._is_subscribed = False
            return self._after_a_pause(timeout_s)
        self._retry_s = FIRST_RETRY_S
        return job_ids

    def _after_a_pause(self, timeout_s: float) -> list[UUID]:
        time.sleep(min(self._retry_s, timeout_s))
        self._retry_s = min(2 * self._retry_s, LAST_RETRY_S)
        return []

    def _read(self, timeout_s: float) -> list[UUID]:
        message = self._pubsub.get_message(ignore_subscribe_messages=True, timeout=timeout_s)
        if message is None:
            return []
        with suppress(MessageError):  # of a newer release, perhaps: ask the database
            return Finished.parse_json(message["data"]).job_ids
        return []
