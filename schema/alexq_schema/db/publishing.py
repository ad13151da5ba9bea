"""Which queued jobs need a message: the doorbell's side of the table. No job changes its state here.

Every statement reads a range of the index ``ix_jobs_unclaimed``: a healthy backlog is not looked at. Each
lane of each queue is first in, first out by itself.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from operator import attrgetter
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Connection, Integer, Select, Update, bindparam, func, select, update

from alexq_schema.db.clock import UtcDateTime, db_now, now
from alexq_schema.db.rows import IS_QUEUED, IS_RUNNING, among, is_still_in, locked
from alexq_schema.db.tables import Job, Sweeper
from alexq_schema.job import JobState
from alexq_schema.messages import Unpublished
from alexq_schema.names import TASK_CLASSIFY_JOBS, Lane, QueueLane

OVERTAKEN_BY = timedelta(seconds=30)
"""How much later a running job was published than a queued one whose message must then be lost."""


LOST_AFTER_S = 10.0
"""Age of a queued job's last message at which its lane's empty queue proves the message lost."""


def _take(*conditions: ColumnElement[bool]) -> Update:
    """Return the UPDATE that publishes up to ``b_limit`` jobs of one lane of a queue, oldest first."""
    chosen = (
        select(Job.id)
        .where(IS_QUEUED, Job.queue == bindparam("b_queue"), Job.lane == bindparam("b_lane"), *conditions)
        .order_by(Job.published_at, Job.retry_at, Job.id)  # as the index has them
        .limit(bindparam("b_limit", type_=Integer))
        .with_for_update(skip_locked=True)
    )
    return (
        update(Job)
        .where(Job.id.in_(chosen))
        .values(published_at=db_now())
        .returning(Job.id, Job.submission_id, Job.task, Job.lane, Job.queue)
    )


def _queues() -> Select[str]:
    """Return the names of the queues in which something waits: one step in the index for each."""
    first = select(func.min(Job.queue).label("queue")).where(IS_QUEUED).cte("waiting", recursive=True)
    following = select(func.min(Job.queue)).where(IS_QUEUED, Job.queue > first.c.queue).scalar_subquery()
    found = first.union_all(select(following).where(first.c.queue.is_not(None)))
    return select(found.c.queue).where(found.c.queue.is_not(None))


_QUEUES = _queues()


_TAKE_MARKED = _take(Job.published_at.is_(None), Job.retry_at.is_(None))
_TAKE_RESTED = _take(Job.published_at.is_(None), Job.retry_at <= db_now())
_TAKE_LOST = _take(Job.published_at < bindparam("b_before", type_=UtcDateTime()))

# A job of Celery's own door counts as published when its message arrives: it overtakes nobody.
_NEWEST_RUNNING = (
    select(Job.queue, Job.lane, func.max(Job.published_at).label("newest"))
    .where(IS_RUNNING, Job.task == TASK_CLASSIFY_JOBS, Job.published_at.is_not(None))
    .group_by(Job.queue, Job.lane)
)


def waiting_queues(connection: Connection) -> list[str]:
    """Return the names of the queues in which something waits."""
    return list(connection.execute(_QUEUES).scalars())


def take_unpublished(
    connection: Connection,
    *,
    limit: int,
    emptied: Collection[QueueLane] = (),
    lost_after_s: float = LOST_AFTER_S,
) -> list[Unpublished]:
    """Mark up to ``limit`` queued jobs that need a message as published now, a lane's oldest first.

    Those are the jobs that were marked so and are due, and those whose message is provably lost:
    published before Redis lost its data (see :mod:`alexq_schema.db.sweeper`), or overtaken by jobs
    that were published well after them and are running already, as each lane is first in, first out.
    A long healthy backlog is neither. Queues that no worker serves are published like others: their messages
    wait for one.

    Args:
        emptied: lanes whose list is empty: also those of them whose message is older than ``lost_after_s``.

    Returns:
        Each of them; publish them, or call :func:`mark_unpublished`.
    """
    waiting = waiting_queues(connection)
    if not waiting:
        return []
    # Interactive lanes first, whosever they are.
    lanes = [QueueLane(queue, lane) for lane in Lane for queue in waiting]
    lost_before = _lost_before(connection, lanes, emptied, timedelta(seconds=lost_after_s))
    taken: list[Unpublished] = []
    for lane in lanes:
        steps: list[tuple[Update, dict[str, Any]]] = [(_TAKE_MARKED, {}), (_TAKE_RESTED, {})]
        if lane in lost_before:
            steps.insert(0, (_TAKE_LOST, {"b_before": lost_before[lane]}))
        where = {"b_queue": lane.queue, "b_lane": lane.lane}
        for statement, values in steps:
            rows = connection.execute(statement, {**where, "b_limit": limit - len(taken), **values})
            taken += [
                Unpublished(row.id, row.submission_id, row.task, Lane(row.lane), row.queue) for row in rows
            ]
    return sorted(taken, key=attrgetter("job_id"))


def _lost_before(
    connection: Connection,
    lanes: Collection[QueueLane],
    emptied: Collection[QueueLane],
    lost_after: timedelta,
) -> dict[QueueLane, datetime]:
    """Return for each lane the time before which every message that was published is lost, if any is."""
    proofs = [
        (QueueLane(row.queue, Lane(row.lane)), row.newest - OVERTAKEN_BY)
        for row in connection.execute(_NEWEST_RUNNING)
    ]
    began_at = connection.execute(select(Sweeper.queue_epoch_began_at)).scalar_one()
    if began_at is not None:
        proofs += [(lane, began_at) for lane in lanes]
    if emptied:
        this_time = now(connection)
        proofs += [(lane, this_time - lost_after) for lane in emptied]
    latest: dict[QueueLane, datetime] = {}
    for lane, at in proofs:
        latest[lane] = max(at, latest.get(lane, at))
    return latest


_MARK = (
    update(Job)
    .where(Job.id.in_(locked(among(Job.id, "b_ids"), is_still_in(JobState.QUEUED))))
    .values(published_at=None)
)


def mark_unpublished(connection: Connection, job_ids: Sequence[UUID]) -> None:
    """Note that these jobs' messages did not go out; the sweeper publishes them."""
    connection.execute(_MARK, {"b_ids": job_ids})
