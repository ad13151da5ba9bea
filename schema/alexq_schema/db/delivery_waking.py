"""Which waiting deliveries are to be looked at, because a job of theirs has just ended.

What it costs grows with the jobs that have ended meanwhile, not with the deliveries that wait. What it misses
(a transaction that took longer than ``OVERLAP_S``) is looked at a while later all the same: see
:mod:`alexq_schema.db.deliveries`.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import Connection, bindparam, select, update

from alexq_schema.db.clock import UtcDateTime, db_now, now
from alexq_schema.db.deliveries import IS_WAITING, LOOK_AGAIN_AT_LATEST_S, WebhookDelivery
from alexq_schema.db.rows import among
from alexq_schema.db.tables import Job

OVERLAP_S = 3.0
"""How long a transaction may take that ends jobs."""

_ANY = select(WebhookDelivery.id).where(IS_WAITING).limit(1)
# No DISTINCT, no IS NOT NULL: for either, SQLite would read every job, in the order of submissions.
_ENDED = select(Job.submission_id).where(Job.finished_at >= bindparam("b_since", type_=UtcDateTime()))
_WAITING = select(WebhookDelivery.id).where(among(WebhookDelivery.submission_id, "b_ids"), IS_WAITING)
_WAKE = update(WebhookDelivery).where(among(WebhookDelivery.id, "b_ids"), IS_WAITING).values(due_at=db_now())


def to_wake(connection: Connection, since: datetime | None) -> tuple[Sequence[UUID], datetime]:
    """Return the waiting deliveries of which a job has ended since then, and since when to ask next.

    Args:
        since: what the call before returned; None: whatever else would be looked at late.
    """
    this_time = now(connection)
    following = this_time - timedelta(seconds=OVERLAP_S)
    if connection.execute(_ANY).first() is None:
        return [], following
    since = since or following - timedelta(seconds=LOOK_AGAIN_AT_LATEST_S)
    ended = list({*connection.execute(_ENDED, {"b_since": since}).scalars()} - {None})
    return list(connection.execute(_WAITING, {"b_ids": ended}).scalars()), following


def wake(connection: Connection, delivery_ids: Sequence[UUID]) -> None:
    """Let waiting deliveries be due now."""
    connection.execute(_WAKE, {"b_ids": delivery_ids})
