"""What is unfinished: how much waits in each queue's lanes, how fast it is worked off, and whose it is.

Counted from the partial indexes of waiting, running and finished jobs, so that jobs which ended earlier cost
nothing. A count still reads each of those that wait (100,000 take 20 ms on SQLite): ask seldom.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import Connection, and_, case, func, or_, select, union_all

from alexq_schema.db.clock import db_now, now
from alexq_schema.db.rows import IS_QUEUED, IS_RUNNING, is_still_in
from alexq_schema.db.tables import Job, Submission
from alexq_schema.job import JobState
from alexq_schema.names import DEFAULT_QUEUE, Lane, QueueLane, lanes_of

WINDOW_S = 60.0
"""Finished jobs are counted over this time, at most."""

COUNTS_AT_ONCE = 100
"""Counts that one statement makes, at most."""


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
        Job.queue,
        Job.lane,
        func.count().label("jobs"),
        func.sum(case((Job.retry_at > db_now(), 1), else_=0)).label("resting"),
        func.min(Job.published_at).label("oldest_at"),
        db_now().label("now"),
    )
    .where(IS_QUEUED)
    .group_by(Job.queue, Job.lane)
)


def waiting(connection: Connection) -> dict[QueueLane, Waiting]:
    """Return what waits: both lanes of the default queue and of those in which something does.

    Queues by their names, and of each the lane that goes first first.
    """
    rows = {QueueLane(row.queue, Lane(row.lane)): row for row in connection.execute(_WAITING)}
    found: dict[QueueLane, Waiting] = {}
    for queue in sorted({DEFAULT_QUEUE, *(lane.queue for lane in rows)}):
        for lane in lanes_of(queue):
            row = rows.get(lane)
            if row is None:
                found[lane] = Waiting()
                continue
            oldest_s = None if row.oldest_at is None else max(0.0, (row.now - row.oldest_at).total_seconds())
            found[lane] = Waiting(row.jobs, int(row.resting), oldest_s)
    return found


def unserved(waiting: Mapping[QueueLane, Waiting], served: Collection[str]) -> dict[str, int]:
    """Return how many jobs wait in each queue that is not among the ``served``, where any do."""
    jobs: Counter[str] = Counter()
    for lane, one in waiting.items():
        if lane.queue not in served:
            jobs[lane.queue] += one.jobs
    return {queue: count for queue, count in jobs.items() if count}


@dataclass(frozen=True, slots=True)
class Held:
    """What the workers of one queue hold."""

    jobs: int = 0
    workers: int = 0
    """That hold any."""


def running(connection: Connection) -> dict[str, Held]:
    """Return what workers hold of each queue; absent means nothing."""
    statement = (
        select(Job.queue, func.count().label("jobs"), func.count(Job.worker_id.distinct()).label("workers"))
        .where(IS_RUNNING)
        .group_by(Job.queue)
    )
    return {row.queue: Held(row.jobs, row.workers) for row in connection.execute(statement)}


@dataclass(frozen=True, slots=True)
class Queue:
    """What is served before a new job of one lane."""

    jobs: int
    """Queued, in this lane and those that go before it."""
    waited_s: float
    """How long the one that was published first has waited; 0 where none was."""
    finished: int
    """Jobs of the queue, in any lane, that workers finished while it did, within the last ``WINDOW_S``."""


EMPTY: Final = Queue(0, 0.0, 0)
"""In which nothing waits."""


def queues(connection: Connection) -> dict[QueueLane, Queue]:
    """Return the queue of each lane; absent means :data:`EMPTY`."""
    now_at = now(connection)  # bound below: PostgreSQL goes by no index to what its own clock says
    before: dict[QueueLane, tuple[int, float]] = {}
    jobs, waited_s = 0, 0.0
    for lane, one in waiting(connection).items():
        if lane.lane is Lane.INTERACTIVE:  # another queue begins
            jobs, waited_s = 0, 0.0
        jobs += one.jobs
        waited_s = max(waited_s, one.oldest_s or 0.0)
        if jobs:
            before[lane] = jobs, waited_s
    asked = [
        (lane.queue, now_at - timedelta(seconds=min(waited_s, WINDOW_S)))
        for lane, (_, waited_s) in before.items()
    ]
    finished = worked_off(connection, asked)
    return {
        lane: Queue(jobs, waited_s, done)
        for (lane, (jobs, waited_s)), done in zip(before.items(), finished, strict=True)
    }


def worked_off(connection: Connection, asked: Sequence[tuple[str, datetime]]) -> list[int]:
    """Return how many jobs of a queue, in any lane, workers finished after a time, for each that is asked."""
    # Cancelled and expired jobs end too, but show nothing of the workers' speed.
    was_worked_off = or_(is_still_in(JobState.SUCCEEDED), is_still_in(JobState.FAILED))
    found: list[int] = []
    for start in range(0, len(asked), COUNTS_AT_ONCE):  # what ended is read once for so many
        some = asked[start : start + COUNTS_AT_ONCE]
        counts = [
            func.count(case((and_(Job.queue == queue, Job.finished_at > since), 1))) for queue, since in some
        ]
        statement = select(*counts).where(Job.finished_at > min(since for _, since in some), was_worked_off)
        found += connection.execute(statement).one()
    return found


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
