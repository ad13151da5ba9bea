"""What the operations on webhooks take and answer with."""

from __future__ import annotations

from datetime import datetime
from typing import Self
from uuid import UUID

from pydantic import BaseModel, Field, model_validator

from alexq_producer.gateway.headers import Instant
from alexq_schema.db.delivery_log import IDS_PER_STATEMENT, DeliveryRow
from alexq_schema.db.webhooks import MAX_URL_LENGTH, KnownWebhook
from alexq_schema.webhooks import DeliveryState, Event


class NewWebhook(BaseModel):
    """Where to be told."""

    url: str = Field(max_length=MAX_URL_LENGTH, examples=["https://shop.example/alexq"])


class Webhook(BaseModel):
    """A place that is told when jobs have ended."""

    webhook_id: UUID
    url: str
    created_at: datetime
    disabled_at: datetime | None
    """Since then nothing is delivered to it; `enable` ends that."""
    disabled_reason: str | None

    @classmethod
    def of(cls, known: KnownWebhook) -> Self:
        """Return the resource for ``known``."""
        return cls(
            webhook_id=known.id,
            url=known.url,
            created_at=known.created_at,
            disabled_at=known.disabled_at,
            disabled_reason=known.disabled_reason,
        )


class Secret(BaseModel):
    """What a webhook's deliveries are signed with; shown this once."""

    webhook_id: UUID
    secret: str = Field(examples=["whsec_…"])


class WebhookPage(BaseModel):
    """Webhooks, newest first."""

    webhooks: list[Webhook]
    next_cursor: str | None
    """Give it as ``cursor`` to see the following page; None: this is the last."""


class Delivery(BaseModel):
    """One event told, or to be told, to one webhook."""

    delivery_id: UUID
    """The header `webhook-id` of every attempt."""
    submission_id: UUID
    event: Event
    state: DeliveryState
    attempts: int
    created_at: datetime
    last_attempt_at: datetime | None
    ended_at: datetime | None
    last_status: int | None
    """The receiver's HTTP status at the last attempt, where there was one."""
    last_error: str | None

    @classmethod
    def of(cls, row: DeliveryRow) -> Self:
        """Return the resource for ``row``."""
        return cls(
            delivery_id=row.id,
            submission_id=row.submission_id,
            event=row.event,
            state=row.state,
            attempts=row.attempts,
            created_at=row.created_at,
            last_attempt_at=row.last_attempt_at,
            ended_at=row.ended_at,
            last_status=row.last_status,
            last_error=row.last_error,
        )


class DeliveryPage(BaseModel):
    """Deliveries, newest first."""

    deliveries: list[Delivery]
    next_cursor: str | None
    """Give it as ``cursor`` to see the following page; None: this is the last."""


class Replay(BaseModel):
    """Which ended deliveries to make again: these, or those handed in since then; else those that failed."""

    delivery_ids: list[UUID] | None = Field(default=None, min_length=1, max_length=IDS_PER_STATEMENT)
    since: Instant | None = None

    @model_validator(mode="after")
    def _one_of_the_two(self) -> Self:
        if self.delivery_ids is not None and self.since is not None:
            raise ValueError("give delivery_ids or since, not both")
        return self


class Replayed(BaseModel):
    """What was queued again."""

    replayed: int
