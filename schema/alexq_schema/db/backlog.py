"""What is unfinished: how much waits in each lane, how fast it is worked off, and whose it is.

Counted from the partial indexes of waiting, running and finished jobs, so that jobs which ended earlier cost
nothing. A count still reads each of those that wait (100,000 take 20 ms on SQLite): ask seldom.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection, case, func, or_, select, union_all

from alexq_schema.db.clock import db_now, now
from alexq_schema.db.rows import IS_QUEUED, IS_RUNNING, is_still_in
from alexq_schema.db.tables import Job, Submission
from alexq_schema.job import JobState
from alexq_schema.names import Lane

WINDOW_S = 60.0
"""Finished jobs are counted over this time, at most."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """The queued jobs of one lane."""

    jobs: int = 0
    resting: int = 0
    """Of these, jobs that may not be claimed yet: the pause after an error of ours is not over."""
    oldest_s: float | None = None
    """Since the message of the job that waits longest went out, or went out again; None where none did."""


_WAITING = (
    select(
        Job.lane,
        func.count().label("jobs"),
        func.sum(case((Job.retry_at > db_now(), 1), else_=0)).label("resting"),
        func.min(Job.published_at).label("oldest_at"),
        db_now().label("now"),
    )
    .where(IS_QUEUED)
    .group_by(Job.lane)
)


def waiting(connection: Connection) -> dict[Lane, Waiting]:
    """Return what waits in each lane, the lane that goes first first."""
    found = {lane: Waiting() for lane in Lane}
    for row in connection.execute(_WAITING):
        oldest_s = None if row.oldest_at is None else max(0.0, (row.now - row.oldest_at).total_seconds())
        found[Lane(row.lane)] = Waiting(row.jobs, int(row.resting), oldest_s)
    return found


def running(connection: Connection) -> int:
    """Return how many jobs workers hold."""
    return connection.execute(select(func.count()).select_from(Job).where(IS_RUNNING)).scalar_one()


def holders(connection: Connection) -> int:
    """Return how many workers hold jobs."""
    return connection.execute(select(func.count(Job.worker_id.distinct())).where(IS_RUNNING)).scalar_one()


@dataclass(frozen=True, slots=True)
class Queue:
    """What is served before a new job of one lane."""

    jobs: int
    """Queued, in this lane and those that go before it."""
    waited_s: float
    """How long the one that was published first has waited; 0 where none was."""
    finished: int
    """Jobs of any lane that workers finished while it did, within the last ``WINDOW_S``."""


def queues(connection: Connection) -> dict[Lane, Queue]:
    """Return the queue of each lane."""
    found: dict[Lane, Queue] = {}
    now_at = now(connection)  # bound below: PostgreSQL goes by no index to what its own clock says
    jobs, waited_s = 0, 0.0
    for lane, one in waiting(connection).items():
        jobs += one.jobs
        waited_s = max(waited_s, one.oldest_s or 0.0)
        finished = (
            worked_off(connection, now_at - timedelta(seconds=min(waited_s, WINDOW_S))) if waited_s else 0
        )
        found[lane] = Queue(jobs, waited_s, finished)
    return found


def worked_off(connection: Connection, since: datetime) -> int:
    """Return how many jobs of any lane workers finished after ``since``."""
    # Cancelled and expired jobs end too, but show nothing of the workers' speed.
    was_worked_off = or_(is_still_in(JobState.SUCCEEDED), is_still_in(JobState.FAILED))
    statement = select(func.count()).where(Job.finished_at > since, was_worked_off)
    return connection.execute(statement).scalar_one()


@dataclass(frozen=True, slots=True)
class Usage:
    """Unfinished jobs."""

    jobs: int = 0
    image_bytes: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(self.jobs + other.jobs, self.image_bytes + other.image_bytes)


def usage_by_tenant(connection: Connection) -> dict[str | None, Usage]:
    """Return what each tenant has unfinished; None stands for what belongs to none."""
    parts = [
        select(Submission.tenant, func.count().label("jobs"), func.sum(Job.image_bytes).label("image_bytes"))
        .select_from(Job)
        .outerjoin(Submission, Job.submission_id == Submission.id)
        .where(condition)
        .group_by(Submission.tenant)
        for condition in (IS_QUEUED, IS_RUNNING)
    ]
    jobs: Counter[str | None] = Counter()
    image_bytes: Counter[str | None] = Counter()
    for row in connection.execute(union_all(*parts)):
        jobs[row.tenant] += row.jobs
        image_bytes[row.tenant] += int(row.image_bytes)
    return {tenant: Usage(jobs[tenant], image_bytes[tenant]) for tenant in jobs}
