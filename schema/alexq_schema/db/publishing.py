"""Which queued jobs need a message: the doorbell's side of the table. No job changes its state here."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from uuid import UUID

from sqlalchemy import ColumnElement, Connection, and_, func, or_, select, update

from alexq_schema.db.clock import db_now
from alexq_schema.db.jobs import chunks, locked
from alexq_schema.db.tables import Job, Sweeper
from alexq_schema.job import JobState
from alexq_schema.names import TASK_CLASSIFY_JOBS

OVERTAKEN_BY = timedelta(seconds=30)
"""How much later a running job was published than a queued one whose message must then be lost."""


def take_unpublished(
    connection: Connection, *, limit: int, lost_after_s: float | None = None
) -> list[tuple[UUID, str]]:
    """Mark up to ``limit`` queued jobs that need a message as published now, oldest first.

    Those are the jobs that were marked so and are due, and those whose message is provably lost:
    published before Redis lost its data (see :mod:`alexq_schema.db.sweeper`), or overtaken by jobs
    that were published well after them and are running already, as the queue is first in, first out.
    A long healthy backlog is neither.

    Args:
        lost_after_s: also those whose message is older than this; None leaves them alone.

    Returns:
        (job id, task name) of each; publish them, or call :func:`mark_unpublished`.
    """
    is_due = or_(Job.retry_at.is_(None), Job.retry_at <= db_now())
    began_at = select(Sweeper.queue_epoch_began_at).scalar_subquery()
    reasons: list[ColumnElement[bool]] = [
        and_(Job.published_at.is_(None), is_due),
        Job.published_at < began_at,
    ]
    if lost_after_s is not None:
        reasons.append(Job.published_at < db_now(-lost_after_s))
    # A job of Celery's own door counts as published when its message arrives: it overtakes nobody.
    running = select(func.max(Job.published_at)).where(
        Job.state == JobState.RUNNING, Job.task == TASK_CLASSIFY_JOBS
    )
    if (newest_running := connection.execute(running).scalar()) is not None:
        reasons.append(Job.published_at < newest_running - OVERTAKEN_BY)
    chosen = (
        select(Job.id)
        .where(Job.state == JobState.QUEUED, or_(*reasons))
        .order_by(Job.id)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    statement = (
        update(Job).where(Job.id.in_(chosen)).values(published_at=db_now()).returning(Job.id, Job.task)
    )
    return sorted((row.id, row.task) for row in connection.execute(statement))


def mark_unpublished(connection: Connection, job_ids: Sequence[UUID]) -> None:
    """Note that these jobs' messages did not go out; the sweeper publishes them."""
    for chunk in chunks(job_ids):
        chosen = locked(Job.id.in_(chunk), Job.state == JobState.QUEUED)
        connection.execute(update(Job).where(Job.id.in_(chosen)).values(published_at=None))
