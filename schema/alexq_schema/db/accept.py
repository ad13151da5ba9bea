"""Accepting: the rows of new jobs. What happens to them afterwards is :mod:`alexq_schema.db.jobs`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, insert
from sqlalchemy.dialects import postgresql, sqlite

from alexq_schema.db.clock import db_now
from alexq_schema.db.jobs import storable
from alexq_schema.db.tables import Job, Submission
from alexq_schema.job import JobState

ROWS_PER_STATEMENT = 1_000


@dataclass(frozen=True, slots=True)
class NewJob:
    """An accepted image, about to become a row."""

    job_id: UUID
    source: str
    image_key: str
    image_bytes: int


def add_submission(connection: Connection, submission_id: UUID, total: int) -> None:
    """Insert the row of a submission of ``total`` jobs."""
    connection.execute(insert(Submission).values(id=submission_id, total=total, created_at=db_now()))


_NEW = {
    "state": JobState.QUEUED,
    "attempt": 0,
    "errors": 0,
    "crashes": 0,
    "created_at": db_now(),
    "published_at": db_now(),
}


def add(
    connection: Connection,
    jobs: Sequence[NewJob],
    *,
    task: str,
    submission_id: UUID | None,
    deadline_s: float | None = None,
) -> None:
    """Insert queued jobs, as published: a message that then gets lost is the sweeper's to notice.

    Args:
        deadline_s: those that no worker has begun by then expire; None waits for ever.
    """
    expires_at = None if deadline_s is None else db_now(deadline_s)
    statement = insert(Job).values({**_NEW, "expires_at": expires_at})
    for start in range(0, len(jobs), ROWS_PER_STATEMENT):
        some = enumerate(jobs[start : start + ROWS_PER_STATEMENT], start)
        connection.execute(statement, [_row(job, position, task, submission_id) for position, job in some])


def add_if_absent(connection: Connection, job: NewJob, *, task: str) -> None:
    """Insert a queued job unless its id is there already: a message may be delivered twice."""
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    statement = dialect.insert(Job).values({**_NEW, **_row(job, 0, task, None)})
    connection.execute(statement.on_conflict_do_nothing(index_elements=[Job.id]))


def _row(job: NewJob, position: int, task: str, submission_id: UUID | None) -> dict[str, Any]:
    return {
        "id": job.job_id,
        "submission_id": submission_id,
        "position": position,
        "task": task,
        "source": storable(job.source)[:1024],
        "image_key": job.image_key,
        "image_bytes": job.image_bytes,
    }
