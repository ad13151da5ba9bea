"""Which queued jobs need a message: the doorbell's side of the table. No job changes its state here."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import timedelta
from uuid import UUID

from sqlalchemy import ColumnElement, Connection, and_, func, or_, select, update

from alexq_schema.db.clock import db_now
from alexq_schema.db.jobs import chunks, locked
from alexq_schema.db.tables import Job, Sweeper
from alexq_schema.job import JobState
from alexq_schema.names import TASK_CLASSIFY_JOBS, Lane

OVERTAKEN_BY = timedelta(seconds=30)
"""How much later a running job was published than a queued one whose message must then be lost."""


LOST_AFTER_S = 10.0
"""Age of a queued job's last message at which its lane's empty queue proves the message lost."""


def take_unpublished(
    connection: Connection,
    *,
    limit: int,
    emptied: Collection[Lane] = (),
    lost_after_s: float = LOST_AFTER_S,
) -> list[tuple[UUID, str, Lane]]:
    """Mark up to ``limit`` queued jobs that need a message as published now, oldest first.

    Those are the jobs that were marked so and are due, and those whose message is provably lost:
    published before Redis lost its data (see :mod:`alexq_schema.db.sweeper`), or overtaken by jobs
    that were published well after them and are running already, as each lane's queue is first in, first out.
    A long healthy backlog is neither.

    Args:
        emptied: lanes whose queue is empty: also those of them whose message is older than ``lost_after_s``.

    Returns:
        (job id, task name, lane) of each; publish them, or call :func:`mark_unpublished`.
    """
    is_due = or_(Job.retry_at.is_(None), Job.retry_at <= db_now())
    began_at = select(Sweeper.queue_epoch_began_at).scalar_subquery()
    reasons: list[ColumnElement[bool]] = [
        and_(Job.published_at.is_(None), is_due),
        Job.published_at < began_at,
    ]
    reasons += [and_(Job.lane == lane, Job.published_at < db_now(-lost_after_s)) for lane in emptied]
    # A job of Celery's own door counts as published when its message arrives: it overtakes nobody.
    running = (
        select(Job.lane, func.max(Job.published_at))
        .where(Job.state == JobState.RUNNING, Job.task == TASK_CLASSIFY_JOBS)
        .group_by(Job.lane)
    )
    for lane, newest in connection.execute(running):
        if newest is not None:
            reasons.append(and_(Job.lane == lane, Job.published_at < newest - OVERTAKEN_BY))
    chosen = (
        select(Job.id)
        .where(Job.state == JobState.QUEUED, or_(*reasons))
        .order_by(Job.id)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    statement = (
        update(Job)
        .where(Job.id.in_(chosen))
        .values(published_at=db_now())
        .returning(Job.id, Job.task, Job.lane)
    )
    return sorted((row.id, row.task, Lane(row.lane)) for row in connection.execute(statement))


def mark_unpublished(connection: Connection, job_ids: Sequence[UUID]) -> None:
    """Note that these jobs' messages did not go out; the sweeper publishes them."""
    for chunk in chunks(job_ids):
        chosen = locked(Job.id.in_(chunk), Job.state == JobState.QUEUED)
        connection.execute(update(Job).where(Job.id.in_(chosen)).values(published_at=None))
