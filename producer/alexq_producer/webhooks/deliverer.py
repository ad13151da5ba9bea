"""One attempt at a delivery: claimed in SQL, posted, its outcome recorded."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import UTC, datetime
from http import HTTPStatus
from random import Random
from typing import Final, NamedTuple
from urllib.parse import urlsplit
from uuid import UUID

from alexq_producer.webhooks.pace import Pace
from alexq_producer.webhooks.payload import body_of, headers_of
from alexq_schema import tracing
from alexq_schema.db import deliveries, queries, webhooks
from alexq_schema.db.deliveries import ClaimedDelivery
from alexq_schema.db.session import Database
from alexq_schema.errors import OutwardRefusedError, OutwardUnavailableError
from alexq_schema.messages import DeliverWebhook
from alexq_schema.outward import Outward
from alexq_schema.webhooks import DeliveryState

THREADS: Final = 64
"""Attempts at a time: they only wait."""

THREADS_OF_ONE: Final = 8
"""Attempts at a time to one webhook: a receiver that hangs holds no more threads than this."""

CROWDED_S: Final = (2.0, 6.0)
"""Between which bounds a delivery is put off whose webhook has that many attempts in progress."""

log = logging.getLogger("alexq.webhooks")


class _Outcome(NamedTuple):
    """What a receiver said."""

    status: int | None
    error: str | None
    """None: delivered."""
    retry_after_s: float | None = None


class Deliverer:
    """Makes attempts; its threads are the caller's."""

    def __init__(self, database: Database, outward: Outward, pace: Pace, random: Random) -> None:
        self._database = database
        self._outward = outward
        self._pace = pace
        self._random = random
        self._in_progress: Counter[UUID] = Counter()
        self._mutex = threading.Lock()

    def attempt(self, due: DeliverWebhook) -> None:
        """Make the attempt, unless somebody else has begun it or the webhook has enough in progress.

        Raises:
            DatabaseUnavailableError: it is made again when the lease is over.
        """
        with self._place(due.webhook_id) as is_free:
            if not is_free:
                with self._database.begin_repeatable() as connection:
                    deliveries.postpone(connection, due, pause_s=self._random.uniform(*CROWDED_S))
                return
            # What is not synced to the disk before a power cut is delivered again, which receivers expect.
            with self._database.begin_repeatable() as connection:
                claimed = deliveries.claim(connection, due, lease_s=self._pace.lease_s)
            if claimed is not None:
                with self._traced(claimed):
                    self._record(claimed, self._post(claimed))

    def _traced(self, claimed: ClaimedDelivery) -> AbstractContextManager[None]:
        """Return a context that is a span of the trace that handed the submission in, if that is sampled."""
        if not tracing.is_on():
            return nullcontext()
        with self._database.read() as connection:
            traceparent = queries.traceparent_of(connection, claimed.submission_id)
        if traceparent is None:
            return nullcontext()
        about: tracing.Attributes = {
            "http.request.method": "POST",
            "alexq.submission.id": str(claimed.submission_id),
            "alexq.delivery.id": str(claimed.delivery_id),
            "alexq.attempt": claimed.attempt,
        }
        return tracing.span("deliver webhook", "client", about, parent=traceparent)

    @contextmanager
    def _place(self, webhook_id: UUID) -> Iterator[bool]:
        with self._mutex:
            self._in_progress[webhook_id] += 1
            is_free = self._in_progress[webhook_id] <= THREADS_OF_ONE
        try:
            yield is_free
        finally:
            with self._mutex:
                self._in_progress[webhook_id] -= 1
                if not self._in_progress[webhook_id]:
                    del self._in_progress[webhook_id]

    def _post(self, claimed: ClaimedDelivery) -> _Outcome:
        with self._database.read() as connection:
            target = webhooks.target(connection, claimed.webhook_id)
            body = body_of(connection, claimed)
        if target is None or body is None:
            return _Outcome(None, "the webhook or its jobs were deleted")
        signed = headers_of(claimed.delivery_id, body, target.secrets, datetime.now(UTC))
        headers = {**signed, **tracing.headers()}
        tracing.note({"server.address": urlsplit(target.url).hostname or ""})
        try:
            answer = self._outward.post(target.url, content=body, headers=headers)
        except (OutwardRefusedError, OutwardUnavailableError) as error:
            tracing.note(error=error.code)
            return _Outcome(None, error.detail)
        is_error = answer.status >= HTTPStatus.BAD_REQUEST
        tracing.note(
            {"http.response.status_code": answer.status}, error=str(answer.status) if is_error else ""
        )
        if HTTPStatus(200) <= answer.status < HTTPStatus(300):
            return _Outcome(answer.status, None)
        said = answer.body[:200].decode("utf-8", "replace").strip()
        return _Outcome(
            answer.status, f"status {answer.status}" + (f": {said}" if said else ""), answer.retry_after_s
        )

    def _record(self, claimed: ClaimedDelivery, outcome: _Outcome) -> None:
        failures = claimed.failures
        state, pause_s = DeliveryState.DELIVERED, 0.0
        if outcome.status == HTTPStatus.GONE:
            state = DeliveryState.PENDING  # it stays, for when the webhook is enabled again
        elif outcome.error is not None:
            failures += 1
            pause = self._pace.pause_s(failures, outcome.retry_after_s, self._random)
            state = DeliveryState.FAILED if pause is None else DeliveryState.PENDING
            pause_s = pause or 0.0
        with self._database.begin_repeatable() as connection:
            if outcome.status == HTTPStatus.GONE:
                webhooks.disable(connection, claimed.webhook_id, "it answered 410 Gone")
            deliveries.record(
                connection,
                claimed,
                state=state,
                failures=failures,
                pause_s=pause_s,
                status=outcome.status,
                error=outcome.error,
            )
        if outcome.error is not None:
            ids = {"delivery_id": claimed.delivery_id, "submission_id": claimed.submission_id}
            log.info(
                "delivery %s, attempt %d: %s", claimed.delivery_id, claimed.attempt, outcome.error, extra=ids
            )
