"""What may go: old jobs, and images that no job needs any more."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from sqlalchemy import ColumnElement, Connection, delete, exists, or_, select, true

from alexq_schema.db.clock import db_now, now
from alexq_schema.db.rows import IS_ENDED, among
from alexq_schema.db.tables import Job, RefusedMessage, Submission
from alexq_schema.ids import first_id_at
from alexq_schema.job import JobState


def delete_old(connection: Connection, *, older_than_s: float, limit: int) -> int:
    """Delete up to ``limit`` jobs that ended before that, with their history; return how many.

    Submissions of that age that are empty by then go too, with their idempotency keys, and notes of refused
    messages.
    """
    limit_at = now(connection) - timedelta(seconds=older_than_s)
    old = (
        select(Job.id)
        .where(Job.finished_at < limit_at)
        .order_by(Job.finished_at)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    deleted = connection.execute(delete(Job).where(Job.id.in_(old))).rowcount
    has_jobs = exists().where(Job.submission_id == Submission.id)
    # By their ids, which are made in the order of time: only the old ones are looked at.
    connection.execute(delete(Submission).where(Submission.id < first_id_at(limit_at), ~has_jobs))
    connection.execute(delete(RefusedMessage).where(RefusedMessage.at < limit_at))
    return deleted


def needed_images(connection: Connection, keys: Sequence[str], *, keep_s: float | None) -> set[str]:
    """Return those of ``keys`` that a job still needs.

    A job needs its image until it has ended, while it is dead (it may be redriven), and for ``keep_s``
    after its end (None: for as long as the job is there).
    """
    is_needed: ColumnElement[bool] = true()
    if keep_s is not None:
        is_live = or_(~IS_ENDED, Job.state == JobState.DEAD)
        is_needed = or_(is_live, Job.finished_at >= db_now(-keep_s))
    statement = select(Job.image_key).where(among(Job.image_key, "b_keys"), is_needed).distinct()
    return set(connection.execute(statement, {"b_keys": keys}).scalars())
