"""Webhook deliveries: the outbox. A row is inserted with its submission and lasts as long as that does.

    (accept) ──▶ pending ──claim──▶ pending, attempts + 1 ──record──▶ delivered | failed | pending
                    ▲                                                      │
                    └────────────────────────replay────────────────────────┘

``due_at`` is when somebody looks at a pending row next. Whoever publishes or claims one moves it ahead by a
lease, so that what is lost with Redis or with a process is found again. ``attempts`` only grows and is the
fence: a claim names the number that it was published with, an outcome the number of its claim. Every
statement here reads a range of the index ``ix_webhook_deliveries_due``, or goes by id.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import (
    Boolean,
    Connection,
    Float,
    ForeignKey,
    Index,
    String,
    Text,
    bindparam,
    case,
    exists,
    insert,
    select,
    text,
    update,
)
from sqlalchemy.orm import Mapped, mapped_column

from alexq_schema.db.clock import db_now
from alexq_schema.db.rows import IS_ENDED, among
from alexq_schema.db.tables import Base, Job
from alexq_schema.db.webhooks import Webhook
from alexq_schema.ids import new_id
from alexq_schema.messages import DeliverWebhook
from alexq_schema.text import storable
from alexq_schema.webhooks import DeliveryState, Event

LOOK_AGAIN_S = 10.0
LOOK_AGAIN_AT_LATEST_S = 600.0
"""A delivery that cannot be made yet is looked at again when it is twice as old, within these bounds; sooner
when one of its jobs ends, see :mod:`alexq_schema.db.delivery_waking`."""

_IS_PENDING_TEXT = "state = 'pending'"


class WebhookDelivery(Base):
    """One event to be told to one webhook."""

    __tablename__ = "webhook_deliveries"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    """Its ``webhook-id``: the same at every attempt."""
    webhook_id: Mapped[UUID] = mapped_column(ForeignKey("webhooks.id", ondelete="CASCADE"))
    submission_id: Mapped[UUID] = mapped_column(ForeignKey("submissions.id", ondelete="CASCADE"))
    event: Mapped[str] = mapped_column(String(32))
    state: Mapped[str] = mapped_column(String(16))
    attempts: Mapped[int]
    """The fence: grows at every claim."""
    failures: Mapped[int]
    """Attempts that failed since it was handed in, was replayed, or its webhook was enabled again."""
    due_at: Mapped[datetime]
    is_waiting: Mapped[bool]
    """Whether some of its jobs had not ended when somebody looked last."""
    created_at: Mapped[datetime]
    last_attempt_at: Mapped[datetime | None]
    ended_at: Mapped[datetime | None]
    last_status: Mapped[int | None]
    """The receiver's HTTP status, where there was one."""
    last_error: Mapped[str | None] = mapped_column(Text)

    __table_args__ = (
        Index("ix_webhook_deliveries_submission", "submission_id"),
        Index("ix_webhook_deliveries_webhook", "webhook_id", "id"),
        Index(
            "ix_webhook_deliveries_due",
            "due_at",
            sqlite_where=text(_IS_PENDING_TEXT),
            postgresql_where=text(_IS_PENDING_TEXT),
        ),
        Index(
            "ix_webhook_deliveries_waiting",
            "submission_id",
            sqlite_where=text("is_waiting"),
            postgresql_where=text("is_waiting"),
        ),
    )


IS_PENDING = text(f"webhook_deliveries.{_IS_PENDING_TEXT}")
IS_WAITING = text("webhook_deliveries.is_waiting")
"""Written as the partial indexes have it."""


@dataclass(frozen=True, slots=True)
class Notice:
    """Whom a new submission tells when it has ended, and of what."""

    webhook_id: UUID
    event: Event


@dataclass(frozen=True, slots=True)
class ClaimedDelivery:
    """An attempt that this process makes; ``attempt`` is the fence that its outcome must name."""

    delivery_id: UUID
    attempt: int
    failures: int
    webhook_id: UUID
    submission_id: UUID
    event: Event


def add(connection: Connection, notices: Sequence[tuple[UUID, Notice]]) -> None:
    """Insert a delivery for each (submission id, notice); none for a webhook that was deleted meanwhile."""
    there = select(Webhook.id).where(among(Webhook.id, "b_ids")).order_by(Webhook.id)
    # A webhook that is being deleted is waited for and then not seen, instead of a broken foreign key.
    there = there.with_for_update(read=True, key_share=True)
    wanted = list({notice.webhook_id for _, notice in notices})
    known = set(connection.execute(there, {"b_ids": wanted}).scalars())
    rows = [
        {"id": new_id(), "submission_id": submission_id, "webhook_id": one.webhook_id, "event": one.event}
        for submission_id, one in notices
        if one.webhook_id in known
    ]
    if rows:
        new = {"state": DeliveryState.PENDING, "attempts": 0, "failures": 0, "is_waiting": True}
        times = {"created_at": db_now(), "due_at": db_now(LOOK_AGAIN_S)}
        connection.execute(insert(WebhookDelivery).values(**new, **times), rows)


_IS_DUE = (IS_PENDING, WebhookDelivery.due_at <= db_now())
_ANY_DUE = select(WebhookDelivery.id).where(*_IS_DUE).limit(1)
_UNFINISHED = (  # the newest first: it ends last, so that the first row decides while they go on
    select(Job.id)
    .where(Job.submission_id == WebhookDelivery.submission_id, ~IS_ENDED)
    .order_by(Job.id.desc())
    .limit(1)
    .scalar_subquery()
)
_LOOK = (
    select(
        WebhookDelivery.id,
        WebhookDelivery.webhook_id,
        WebhookDelivery.attempts,
        WebhookDelivery.created_at,
        db_now().label("now"),
        case((Webhook.disabled_at.is_(None), _UNFINISHED), else_=WebhookDelivery.id).label("waits_for"),
    )
    .join(Webhook, Webhook.id == WebhookDelivery.webhook_id)
    .where(*_IS_DUE)
    .order_by(WebhookDelivery.due_at)
    .limit(bindparam("b_limit"))
    .with_for_update(of=WebhookDelivery, skip_locked=True)
)
_MOVE = (
    update(WebhookDelivery)
    .where(WebhookDelivery.id == bindparam("b_id"))
    .values(due_at=db_now(bindparam("b_pause_s", type_=Float)))
)


def is_any_due(connection: Connection) -> bool:
    """Return whether :func:`take_due` has anything to look at."""
    return connection.execute(_ANY_DUE).first() is not None


def take_due(connection: Connection, *, limit: int, lease_s: float) -> tuple[list[DeliverWebhook], int]:
    """Take the deliveries of up to ``limit`` due rows that can be made now: all jobs ended, webhook enabled.

    They are not due again for ``lease_s`` seconds: publish them meanwhile. Rows that cannot be made yet are
    looked at again later, the later the older they are.

    Returns:
        The deliveries, and how many rows were looked at; with ``limit`` of them there may be more.
    """
    rows = connection.execute(_LOOK, {"b_limit": limit}).all()
    moves = [
        {
            "b_id": row.id,
            "b_pause_s": lease_s if row.waits_for is None else _look_again_s(row.now - row.created_at),
            "b_is_waiting": row.waits_for not in (None, row.id),
        }
        for row in rows
    ]
    if moves:
        connection.execute(_MOVE.values(is_waiting=bindparam("b_is_waiting", type_=Boolean)), moves)
    due = [
        DeliverWebhook(delivery_id=row.id, webhook_id=row.webhook_id, attempts=row.attempts)
        for row in rows
        if row.waits_for is None
    ]
    return due, len(rows)


def _look_again_s(age: timedelta) -> float:
    return min(LOOK_AGAIN_AT_LATEST_S, max(LOOK_AGAIN_S, age.total_seconds()))


def postpone(connection: Connection, due: DeliverWebhook, *, pause_s: float) -> None:
    """Let a delivery that was not attempted be due again in ``pause_s`` seconds."""
    statement = _MOVE.where(IS_PENDING, WebhookDelivery.attempts == due.attempts)
    connection.execute(statement, {"b_id": due.delivery_id, "b_pause_s": pause_s})


def claim(connection: Connection, due: DeliverWebhook, *, lease_s: float) -> ClaimedDelivery | None:
    """Begin an attempt, or return None: somebody else did, or the webhook was disabled or deleted.

    Without an outcome it is due again in ``lease_s`` seconds.
    """
    is_enabled = exists().where(Webhook.id == WebhookDelivery.webhook_id, Webhook.disabled_at.is_(None))
    statement = (
        update(WebhookDelivery)
        .where(
            WebhookDelivery.id == due.delivery_id,
            WebhookDelivery.attempts == due.attempts,
            IS_PENDING,
            is_enabled,
        )
        .values(
            attempts=WebhookDelivery.attempts + 1,
            due_at=db_now(lease_s),
            last_attempt_at=db_now(),
        )
        .returning(WebhookDelivery.failures, WebhookDelivery.submission_id, WebhookDelivery.event)
    )
    row = connection.execute(statement).first()
    if row is None:
        return None
    return ClaimedDelivery(
        due.delivery_id,
        due.attempts + 1,
        row.failures,
        due.webhook_id,
        row.submission_id,
        Event(row.event),
    )


def hurry(connection: Connection, webhook_id: UUID) -> None:
    """Make all that is pending for a webhook due now, with fresh attempts."""
    statement = update(WebhookDelivery).where(WebhookDelivery.webhook_id == webhook_id, IS_PENDING)
    connection.execute(statement.values(due_at=db_now(), failures=0))


def record(
    connection: Connection,
    claimed: ClaimedDelivery,
    *,
    state: DeliveryState,
    failures: int = 0,
    pause_s: float = 0.0,
    status: int | None,
    error: str | None,
) -> bool:
    """Write what came of an attempt; return False where it is not this process's any more.

    Args:
        state: ``pending`` for one that is tried again in ``pause_s`` seconds.
    """
    ended_at = None if state is DeliveryState.PENDING else db_now()
    statement = update(WebhookDelivery).where(
        WebhookDelivery.id == claimed.delivery_id, WebhookDelivery.attempts == claimed.attempt, IS_PENDING
    )
    values = {
        "state": state,
        "failures": failures,
        "due_at": db_now(pause_s),
        "ended_at": ended_at,
        "last_status": status,
        "last_error": None if error is None else storable(error)[:2_000],
    }
    return connection.execute(statement.values(values)).rowcount == 1
