"""Finds what is due and publishes it: one message for each attempt."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final

import redis
from celery import Celery

from alexq_producer.webhooks.pace import Pace
from alexq_schema.db import deliveries, delivery_waking
from alexq_schema.db.session import Database
from alexq_schema.messages import DeliverWebhook
from alexq_schema.names import QUEUE_WEBHOOKS, TASK_DELIVER_WEBHOOK

MAX_QUEUED: Final = 500
"""Messages in the queue: no more are published than workers take within the lease."""

MAX_ROUNDS: Final = 20
"""Times that as many rows are looked at without a pause."""


class Dispatcher:
    """Looks at due rows; any number of processes may do so at once."""

    def __init__(self, database: Database, client: redis.Redis, app: Celery, pace: Pace) -> None:
        self._database = database
        self._redis = client
        self._app = app
        self._pace = pace
        self._ended_since: datetime | None = None

    def look(self) -> None:
        """Publish what is due and has room in the queue.

        Raises:
            DatabaseUnavailableError, redis.RedisError, kombu.exceptions.KombuError, OSError: a service does
                not answer. What was taken and did not go out is due again when the lease is over.
        """
        self._wake()
        for _ in range(MAX_ROUNDS):
            room = MAX_QUEUED - self._queued()
            if room <= 0 or not self._is_any_due():
                return
            with self._database.begin_repeatable() as connection:
                due, looked_at = deliveries.take_due(connection, limit=room, lease_s=self._pace.lease_s)
            self._publish(due)
            if looked_at < room:
                return

    def _wake(self) -> None:
        """Let those be due of which a job has ended."""
        with self._database.read() as connection:
            delivery_ids, following = delivery_waking.to_wake(connection, self._ended_since)
        if delivery_ids:
            with self._database.begin_repeatable() as connection:
                delivery_waking.wake(connection, delivery_ids)
        self._ended_since = following

    def _is_any_due(self) -> bool:
        with self._database.read() as connection:  # on SQLite, nobody waits for one who only looks
            return deliveries.is_any_due(connection)

    def _queued(self) -> int:
        return int(self._redis.llen(QUEUE_WEBHOOKS))

    def _publish(self, due: Sequence[DeliverWebhook]) -> None:
        with self._app.producer_or_acquire() as producer, producer.batch():
            for one in due:
                self._app.send_task(
                    TASK_DELIVER_WEBHOOK,
                    kwargs=one.model_dump(mode="json"),
                    kwargsrepr=str(one.delivery_id),
                    queue=QUEUE_WEBHOOKS,
                    producer=producer,
                    retry=False,
                    ignore_result=True,
                )
