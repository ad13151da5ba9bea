"""Webhook deliveries as their tenant sees them, and what is done to them by hand: replay."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import Connection, case, func, select, update

from alexq_schema.db.clock import db_now
from alexq_schema.db.deliveries import IS_PENDING, WebhookDelivery
from alexq_schema.db.rows import among
from alexq_schema.db.session import Database
from alexq_schema.db.webhooks import Webhook, is_theirs
from alexq_schema.webhooks import DeliveryState, Event

IDS_PER_STATEMENT = 5_000
"""Deliveries that one transaction replays, at most."""


@dataclass(frozen=True, slots=True)
class DeliveryRow:
    """A delivery as its tenant may see it."""

    id: UUID
    submission_id: UUID
    event: Event
    state: DeliveryState
    attempts: int
    created_at: datetime
    last_attempt_at: datetime | None
    ended_at: datetime | None
    last_status: int | None
    last_error: str | None


def page(
    connection: Connection,
    tenant: str | None,
    webhook_id: UUID,
    *,
    state: DeliveryState | None,
    after: UUID | None,
    limit: int,
) -> list[DeliveryRow]:
    """Return deliveries of a webhook, newest first; of the page that follows the delivery ``after``."""
    stopped = func.coalesce("the webhook is disabled: " + Webhook.disabled_reason, WebhookDelivery.last_error)
    error = case((IS_PENDING, stopped), else_=WebhookDelivery.last_error)
    row = WebhookDelivery
    statement = (
        select(
            row.id,
            row.submission_id,
            row.event,
            row.state,
            row.attempts,
            row.created_at,
            row.last_attempt_at,
            row.ended_at,
            row.last_status,
            error,
        )
        .join(Webhook, Webhook.id == row.webhook_id)
        .where(is_theirs(tenant, webhook_id))
        .order_by(row.id.desc())
        .limit(limit)
    )
    if state is not None:
        statement = statement.where(row.state == state)
    if after is not None:
        statement = statement.where(row.id < after)
    return [
        DeliveryRow(one[0], one[1], Event(one[2]), DeliveryState(one[3]), *one[4:])
        for one in connection.execute(statement)
    ]


def replay(
    connection: Connection,
    tenant: str | None,
    webhook_id: UUID,
    *,
    delivery_ids: Sequence[UUID] | None = None,
    since: datetime | None = None,
    after: UUID | None = None,
    limit: int = IDS_PER_STATEMENT,
) -> list[UUID]:
    """Let up to ``limit`` ended deliveries of a webhook be made again, with fresh attempts.

    Args:
        delivery_ids: these, at most ``limit``.
        since: those handed in since then. Without either: those that failed.
        after: only those that come after this one.

    Returns:
        Their ids, in order; with ``limit`` of them there may be more.
    """
    row = WebhookDelivery
    wanted = [is_theirs(tenant, webhook_id), row.state != DeliveryState.PENDING]
    if delivery_ids is not None:
        wanted.append(among(row.id, "b_asked"))
    elif since is not None:
        wanted.append(row.created_at >= since)
    else:
        wanted.append(row.state == DeliveryState.FAILED)
    if after is not None:
        wanted.append(row.id > after)
    chosen = (
        select(row.id)
        .join(Webhook, Webhook.id == row.webhook_id)
        .where(*wanted)
        .order_by(row.id)
        .limit(limit)
        .with_for_update(of=row)
    )
    asked = {} if delivery_ids is None else {"b_asked": delivery_ids}
    ids = list(connection.execute(chosen, asked).scalars())
    fresh = {"state": DeliveryState.PENDING, "failures": 0, "due_at": db_now(), "ended_at": None}
    connection.execute(update(row).where(among(row.id, "b_ids")).values(fresh), {"b_ids": ids})
    return ids


def replay_all(
    database: Database,
    tenant: str | None,
    webhook_id: UUID,
    *,
    delivery_ids: Sequence[UUID] | None = None,
    since: datetime | None = None,
) -> int:
    """Do as :func:`replay` for all that match, a transaction each for a part of them; return how many."""
    replayed, after = 0, None
    while True:
        with database.begin() as connection:
            ids = replay(connection, tenant, webhook_id, delivery_ids=delivery_ids, since=since, after=after)
        replayed += len(ids)
        if len(ids) < IDS_PER_STATEMENT:
            return replayed
        after = ids[-1]


def overdue(connection: Connection, *, for_s: float) -> int:
    """Return how many pending deliveries nobody has looked at, although they were due ``for_s`` ago."""
    late = select(func.count()).where(IS_PENDING, WebhookDelivery.due_at < db_now(-for_s))
    return connection.execute(late.select_from(WebhookDelivery)).scalar_one()
