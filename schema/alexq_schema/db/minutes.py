"""How many jobs came in and ended in each minute, for charts.

Minutes are numbered from the epoch. What ended is read through ``ix_jobs_finished``; what came in, from the
primary key alone, as a UUIDv7 holds its time. A plain Celery client names its jobs with random ids: those
count as come in when they end.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from sqlalchemy import (
    Connection,
    Integer,
    Text,
    Uuid,
    case,
    cast,
    column,
    func,
    literal,
    select,
    union_all,
    values,
)
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

from alexq_schema.db.clock import now
from alexq_schema.db.tables import Job
from alexq_schema.ids import first_id_at
from alexq_schema.job import JobState
from alexq_schema.names import DEFAULT_QUEUE

SECONDS = 60


@dataclass(frozen=True, slots=True)
class Ended:
    """What ended in one minute."""

    states: Mapping[JobState, int]
    """Jobs by the state that they ended in; absent means 0."""
    batches: float = 0.0
    """Forward passes: each job of a batch of s images counts 1/s."""
    images: int = 0
    """Jobs that had a place in one: not those that another's forward or a past result answered."""
    unnumbered: int = 0
    """Those of them whose id does not say when they came in."""


class _MinuteOf(FunctionElement[int]):
    name = "alexq_minute_of"
    type = Integer()
    inherit_cache = True


@compiles(_MinuteOf, "sqlite")
def _minute_of_sqlite(element: _MinuteOf, compiler: SQLCompiler, **kw: Any) -> str:
    return f"(CAST(strftime('%s', {compiler.process(element.clauses, **kw)}) AS INTEGER) / {SECONDS})"


@compiles(_MinuteOf, "postgresql")
def _minute_of_postgresql(element: _MinuteOf, compiler: SQLCompiler, **kw: Any) -> str:
    return f"CAST(floor(extract(epoch FROM {compiler.process(element.clauses, **kw)}) / {SECONDS}) AS BIGINT)"


def start_of(minute: int) -> datetime:
    """Return when a minute begins."""
    return datetime.fromtimestamp(minute * SECONDS, UTC)


def minute_at(time: datetime) -> int:
    """Return the minute that ``time`` is in."""
    return int(time.timestamp()) // SECONDS


def this_minute(connection: Connection) -> int:
    """Return the minute that it is by the database's clock."""
    return minute_at(now(connection))


_IS_NUMBERED = func.substr(func.replace(cast(Job.id, Text), "-", ""), 13, 1) == "7"  # the version of the UUID
_MINUTE = _MinuteOf(Job.finished_at).label("minute")


def ended(connection: Connection, first: int, after: int) -> dict[int, Ended]:
    """Return what ended in each minute of ``first`` ≤ minute < ``after``; absent means nothing."""
    statement = (
        select(
            _MINUTE,
            Job.state,
            func.count().label("jobs"),
            func.sum(1.0 / Job.batch_size).label("batches"),
            func.count(Job.batch_size).label("images"),
            func.sum(case((_IS_NUMBERED, 0), else_=1)).label("unnumbered"),
        )
        .where(
            Job.finished_at.is_not(None),
            Job.finished_at >= start_of(first),
            Job.finished_at < start_of(after),
        )
        .group_by(_MINUTE, Job.state)
    )
    rows: defaultdict[int, list[Any]] = defaultdict(list)
    for row in connection.execute(statement):
        rows[row.minute].append(row)
    return {
        minute: Ended(
            {JobState(row.state): row.jobs for row in some},
            float(sum(row.batches or 0 for row in some)),
            int(sum(row.images for row in some)),
            int(sum(row.unnumbered for row in some)),
        )
        for minute, some in rows.items()
    }


def came_in(connection: Connection, first: int, after: int) -> dict[int, int]:
    """Return how many jobs came in in each minute of ``first`` ≤ minute < ``after``, by their ids."""
    wanted = (
        values(column("minute", Integer), column("first_id", Uuid), column("after_id", Uuid), name="wanted")
        .data([(m, first_id_at(start_of(m)), first_id_at(start_of(m + 1))) for m in range(first, after)])
        .cte("wanted")
    )
    theirs = (
        select(func.count())
        .select_from(Job)
        .where(Job.id >= wanted.c.first_id, Job.id < wanted.c.after_id)
        .scalar_subquery()
    )
    rows = connection.execute(select(wanted.c.minute, theirs.label("jobs")))
    return {row.minute: row.jobs for row in rows if row.jobs}


def came_in_by_queue(connection: Connection, first: int, after: int) -> dict[tuple[str, int], int]:
    """Return how many jobs of each queue that has a name came in in each minute, by their ids.

    The rows of those minutes are read: ask for few. Keys are queue and minute; absent means nothing.
    """
    parts = [
        select(Job.queue, literal(minute).label("minute"), func.count().label("jobs"))
        .where(
            Job.id >= first_id_at(start_of(minute)),
            Job.id < first_id_at(start_of(minute + 1)),
            Job.queue != DEFAULT_QUEUE,
        )
        .group_by(Job.queue)
        for minute in range(first, after)
    ]
    return {(row.queue, row.minute): row.jobs for row in connection.execute(union_all(*parts))}


def oldest(connection: Connection) -> int | None:
    """Return a minute before which nothing came in or ended, or None where there is no job."""
    first = connection.execute(select(Job.id).order_by(Job.id).limit(1)).scalar()
    if first is None:
        return None
    finished = connection.execute(
        select(func.min(Job.finished_at)).where(Job.finished_at.is_not(None))
    ).scalar()
    known = [minute_of_id(first)] + ([] if finished is None else [minute_at(finished)])
    return min(known)


def minute_of_id(job_id: UUID) -> int:
    """Return the minute that a UUIDv7 names; for another id, one that means nothing."""
    return (job_id.int >> 80) // (1000 * SECONDS)
