"""What may go: old jobs, and images that no job needs any more."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import ColumnElement, Connection, delete, exists, or_, select, true

from alexq_schema.db.clock import db_now
from alexq_schema.db.jobs import chunks
from alexq_schema.db.tables import Job, RefusedMessage, Submission
from alexq_schema.job import TERMINAL_STATES, JobState


def delete_old(connection: Connection, *, older_than_s: float, limit: int) -> int:
    """Delete up to ``limit`` jobs accepted before that and ended, with their history; return how many.

    Submissions that are empty by then go too, and notes of refused messages of that age.
    """
    limit_at = db_now(-older_than_s)
    old = (
        select(Job.id)
        .where(Job.created_at < limit_at, Job.state.in_(TERMINAL_STATES))
        .order_by(Job.created_at)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    deleted = connection.execute(delete(Job).where(Job.id.in_(old))).rowcount
    has_jobs = exists().where(Job.submission_id == Submission.id)
    empty = select(Submission.id).where(Submission.created_at < limit_at, ~has_jobs).limit(limit)
    connection.execute(delete(Submission).where(Submission.id.in_(empty)))
    connection.execute(delete(RefusedMessage).where(RefusedMessage.at < limit_at))
    return deleted


def needed_images(connection: Connection, keys: Sequence[str], *, keep_s: float | None) -> set[str]:
    """Return those of ``keys`` that a job still needs.

    A job needs its image until it has ended, while it is dead (it may be redriven), and for ``keep_s``
    after its end (None: for as long as the job is there).
    """
    is_needed: ColumnElement[bool] = true()
    if keep_s is not None:
        is_live = or_(Job.state.not_in(TERMINAL_STATES), Job.state == JobState.DEAD)
        is_needed = or_(is_live, Job.finished_at >= db_now(-keep_s))
    return {
        key
        for chunk in chunks(keys)
        for key in connection.execute(
            select(Job.image_key).where(Job.image_key.in_(chunk), is_needed).distinct()
        ).scalars()
    }
