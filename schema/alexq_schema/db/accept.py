"""Accepting: the rows of new jobs. What happens to them afterwards is :mod:`alexq_schema.db.jobs`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Float, bindparam, insert, literal_column
from sqlalchemy.dialects import postgresql, sqlite

from alexq_schema.db import deliveries
from alexq_schema.db.clock import db_now
from alexq_schema.db.deliveries import Notice
from alexq_schema.db.rows import literal_state
from alexq_schema.db.tables import Job, Submission
from alexq_schema.job import JobState
from alexq_schema.names import DEFAULT_QUEUE, TASK_CLASSIFY_IMAGE, TASK_CLASSIFY_JOBS, Lane
from alexq_schema.options import Options
from alexq_schema.text import storable

ROWS_PER_STATEMENT = 1_000


@dataclass(frozen=True, slots=True)
class NewJob:
    """An accepted image, about to become a row."""

    job_id: UUID
    source: str
    image_key: str
    image_bytes: int
    model: str | None = None
    """Of a job of Celery's own door: as a submission's."""
    options: Options | None = None
    """As a submission's, too."""


@dataclass(frozen=True, slots=True)
class NewSubmission:
    """What one call handed in, about to become rows."""

    submission_id: UUID
    jobs: Sequence[NewJob]
    lane: Lane
    deadline_s: float | None = None
    """Those that no worker has begun by then, from now, expire; None waits for ever."""
    tenant: str | None = None
    """Whose it is, for what came over HTTP with an API key."""
    notice: Notice | None = None
    """Which webhook is told when it has ended."""
    traceparent: str | None = None
    """The span that hands it in, where that is sampled."""
    model: str | None = None
    """``name/version`` that its jobs must be done with; None: whichever is active."""
    options: Options | None = None
    """How they are to be classified; None: as ever."""
    queue: str = DEFAULT_QUEUE
    """Whose workers do them."""


_NEW = {
    "state": literal_state(JobState.QUEUED),
    "attempt": literal_column("0"),
    "errors": literal_column("0"),
    "crashes": literal_column("0"),
    "created_at": db_now(),
    "published_at": db_now(),
}

_ADD = insert(Job).values({**_NEW, "expires_at": db_now(bindparam("b_deadline_s", type_=Float))})


def add(connection: Connection, submissions: Sequence[NewSubmission]) -> None:
    """Insert submissions, their queued jobs and what is to be told of them, a thousand rows a statement.

    The jobs count as published: a message that then gets lost is the sweeper's to notice.
    """
    connection.execute(
        insert(Submission).values(created_at=db_now()),
        [{"id": one.submission_id, "total": len(one.jobs), "tenant": one.tenant} for one in submissions],
    )
    rows = [
        {
            **_row(job, position, TASK_CLASSIFY_JOBS, one.lane, one),
            "submission_id": one.submission_id,
            "queue": one.queue,
            "traceparent": one.traceparent,
            "b_deadline_s": one.deadline_s,
        }
        for one in submissions
        for position, job in enumerate(one.jobs)
    ]
    for start in range(0, len(rows), ROWS_PER_STATEMENT):
        connection.execute(_ADD, rows[start : start + ROWS_PER_STATEMENT])
    if notices := [(one.submission_id, one.notice) for one in submissions if one.notice is not None]:
        deliveries.add(connection, notices)


def add_if_absent(connection: Connection, jobs: Sequence[NewJob]) -> None:
    """Insert queued jobs of Celery's own door, but for ids that are there: a message may come twice."""
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    statement = dialect.insert(Job).values(_NEW).on_conflict_do_nothing(index_elements=[Job.id])
    connection.execute(statement, [_row(job, 0, TASK_CLASSIFY_IMAGE, Lane.INTERACTIVE, job) for job in jobs])


def _row(job: NewJob, position: int, task: str, lane: Lane, of: NewJob | NewSubmission) -> dict[str, Any]:
    return {
        "id": job.job_id,
        "position": position,
        "task": task,
        "lane": lane,
        "source": storable(job.source)[:1024],
        "image_key": job.image_key,
        "image_bytes": job.image_bytes,
        "pinned_model": of.model,
        "options": None if of.options is None else of.options.stored(),
    }
