"""How the whole system is: what waits in each lane and for how long, who works, what is dead.

Each count goes through an index that holds only what is counted, so that ended jobs cost nothing. That of
waiting jobs still looks at each (100,000 take 20 ms on SQLite): ask the less often, the longer it takes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from sqlalchemy import Connection, case, func, literal, select

from alexq_schema.db.clock import db_now
from alexq_schema.db.rows import IS_QUEUED, IS_RUNNING, is_in
from alexq_schema.db.tables import Job, Worker
from alexq_schema.job import JobState
from alexq_schema.names import Lane

DEAD_COUNTED: Final = 10_000
"""Dead jobs that are counted, at most: they stay until somebody redrives them."""

GONE_S: Final = 3600.0
"""Time after which a worker that fell silent is no longer counted."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """The queued jobs of one lane."""

    due: int = 0
    """May be claimed."""
    resting: int = 0
    """After an error of ours, until their pause is over."""
    oldest_s: float = 0.0
    """Since the message of the longest waiting one went out; 0 where none did."""


@dataclass(frozen=True, slots=True)
class Overview:
    """One look at the database."""

    running: int
    dead: int
    """At most ``DEAD_COUNTED``."""
    alive: int
    """Workers that showed progress lately."""
    silent: int
    """Workers that did not, within the last hour, and have not said goodbye."""
    waiting: Mapping[Lane, Waiting] = field(default_factory=dict)


def look(connection: Connection, *, silent_after_s: float) -> Overview:
    """Return the overview: four statements."""
    waiting = {lane: Waiting() for lane in Lane}
    for row in connection.execute(_WAITING):
        oldest_s = 0.0 if row.oldest_at is None else (row.now - row.oldest_at).total_seconds()
        waiting[Lane(row.lane)] = Waiting(row.jobs - row.resting, row.resting, max(0.0, oldest_s))
    running = connection.execute(select(func.count()).where(IS_RUNNING)).scalar_one()
    dead = connection.execute(_DEAD).scalar_one()
    is_alive = Worker.last_seen_at >= db_now(-silent_after_s)
    workers = connection.execute(
        select(func.count().filter(is_alive).label("alive"), func.count().filter(~is_alive).label("silent"))
        .select_from(Worker)
        .where(
            Worker.stopped_at.is_(None),
            Worker.unhealthy_at.is_(None),
            Worker.last_seen_at >= db_now(-max(GONE_S, silent_after_s)),
        )
    ).one()
    return Overview(running, dead, workers.alive, workers.silent, waiting)


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
_DEAD = select(func.count()).select_from(
    select(literal(1)).select_from(Job).where(is_in(JobState.DEAD)).limit(DEAD_COUNTED).subquery()
)
