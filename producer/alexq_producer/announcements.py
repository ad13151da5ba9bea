"""Hearing from workers that jobs have finished: Redis pub/sub, one channel a submission.

An announcement is a hint, never the truth: the listener's caller reads the jobs from the database,
and asks it anyway after a silence, so that a lost announcement or a dead Redis costs time only.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from uuid import UUID

import redis
from redis.client import PubSub

from alexq_schema.errors import MessageError
from alexq_schema.messages import Finished
from alexq_schema.names import finished_channel

RETRY_S = 0.5
"""Pause before the database is asked again while Redis does not answer."""


class Announcements:
    """Opens listeners; one connection pool for all of them."""

    def __init__(self, broker_url: str, timeout_s: float) -> None:
        self._redis = redis.Redis.from_url(
            broker_url, socket_connect_timeout=timeout_s, socket_timeout=timeout_s
        )

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
        self._is_subscribed = False
        with suppress(redis.RedisError, OSError):
            self._subscribe()

    def _subscribe(self) -> None:
        self._pubsub.subscribe(self._channel)
        self._pubsub.get_message(timeout=RETRY_S)  # the confirmation: from here on nothing is missed
        self._is_subscribed = True

    def next(self, timeout_s: float) -> Sequence[UUID]:
        """Return job ids that were announced: of all announcements there are, after waiting for one.

        Returns:
            Empty after ``timeout_s`` of silence, or sooner when something may have been missed.
        """
        try:
            if not self._is_subscribed:
                self._subscribe()
                return []
            job_ids = self._read(timeout_s)
            while job_ids and (more := self._read(0.0)):
                job_ids += more
        except (redis.RedisError, OSError):
            self._is_subscribed = False
            time.sleep(min(RETRY_S, timeout_s))
            return []
        return job_ids

    def _read(self, timeout_s: float) -> list[UUID]:
        message = self._pubsub.get_message(ignore_subscribe_messages=True, timeout=timeout_s)
        if message is None:
            return []
        with suppress(MessageError):  # of a newer release, perhaps: ask the database
            return Finished.parse_json(message["data"]).job_ids
        return []
