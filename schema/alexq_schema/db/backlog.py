"""What is unfinished: how much waits in each lane, how fast it is worked off, and whose it is.

Counted from the partial indexes of waiting, running and finished jobs, so that jobs which ended earlier cost
nothing. A count still reads each of those that wait: ask seldom.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import Connection, func, or_, select, union_all

from alexq_schema.db.clock import now
from alexq_schema.db.rows import IS_QUEUED, IS_RUNNING, is_still_in
from alexq_schema.db.tables import Job, Submission
from alexq_schema.job import JobState
from alexq_schema.names import Lane

WINDOW_S = 60.0
"""Finished jobs are counted over this time, at most."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Unfinished jobs."""

    jobs: int = 0
    image_bytes: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(self.jobs + other.jobs, self.image_bytes + other.image_bytes)


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
    statement = (
        select(Job.lane, func.count().label("jobs"), func.min(Job.published_at).label("oldest_at"))
        .where(IS_QUEUED)
        .group_by(Job.lane)
    )
    waiting = {row.lane: row for row in connection.execute(statement)}
    now_at = now(connection)
    found: dict[Lane, Queue] = {}
    jobs, waited_s = 0, 0.0
    for lane in Lane:  # the first first
        if (row := waiting.get(lane)) is not None:
            jobs += row.jobs
            if row.oldest_at is not None:
                waited_s = max(waited_s, (now_at - row.oldest_at).total_seconds())
        since = now_at - timedelta(seconds=min(waited_s, WINDOW_S))
        # Cancelled and expired jobs end too, but show nothing of the workers' speed.
        was_worked_off = or_(is_still_in(JobState.SUCCEEDED), is_still_in(JobState.FAILED))
        finished = select(func.count()).where(Job.finished_at > since, was_worked_off)
        found[lane] = Queue(jobs, waited_s, connection.execute(finished).scalar_one() if waited_s else 0)
    return found


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
