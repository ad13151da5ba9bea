"""What is read of jobs: as the objects that everyone sees."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, func, select

from alexq_schema.db.jobs import chunks
from alexq_schema.db.tables import Job as JobRow
from alexq_schema.db.tables import ModelVersion, Submission, Worker
from alexq_schema.job import TERMINAL_STATES, Job, JobError, JobState, ModelRef, Prediction, Timings

_JOBS = select(
    JobRow.__table__,
    ModelVersion.name.label("model_name"),
    ModelVersion.version.label("model_version"),
    ModelVersion.precision.label("model_precision"),
    ModelVersion.trained.label("model_trained"),
    Worker.host.label("worker_host"),
    Worker.pid.label("worker_pid"),
).select_from(
    JobRow.__table__.outerjoin(ModelVersion.__table__, JobRow.model_id == ModelVersion.id).outerjoin(
        Worker.__table__, JobRow.worker_id == Worker.id
    )
)


def _job(row: Any) -> Job:
    return Job(
        job_id=row.id,
        submission_id=row.submission_id,
        source=row.source,
        state=JobState(row.state),
        attempt=row.attempt,
        errors=row.errors,
        crashes=row.crashes,
        worker=None if row.worker_host is None else f"{row.worker_host}:{row.worker_pid}",
        image_key=row.image_key,
        predictions=[
            Prediction(rank=rank, **prediction)
            for rank, prediction in enumerate(row.predictions or (), start=1)
        ],
        model=None
        if row.model_id is None
        else ModelRef(
            name=row.model_name,
            version=row.model_version,
            precision=row.model_precision,
            trained=row.model_trained,
        ),
        error=None
        if row.error_code is None
        else JobError(code=row.error_code, detail=row.error_detail or ""),
        timings=Timings(
            waited_s=_seconds(row.created_at, row.claimed_at),
            decode_s=row.decode_s,
            forward_s=row.forward_s,
            total_s=_seconds(row.created_at, row.finished_at),
        ),
        created_at=row.created_at,
        finished_at=row.finished_at,
    )


def _seconds(start: Any, end: Any) -> float | None:
    return None if end is None else round((end - start).total_seconds(), 6)


def by_id(connection: Connection, job_ids: Sequence[UUID]) -> list[Job]:
    """Return those of ``job_ids`` that exist, in their order."""
    found: dict[UUID, Job] = {}
    for chunk in chunks(job_ids):
        for row in connection.execute(_JOBS.where(JobRow.id.in_(chunk))):
            found[row.id] = _job(row)
    return [found[job_id] for job_id in job_ids if job_id in found]


def finished(connection: Connection, job_ids: Sequence[UUID]) -> list[Job]:
    """Return those of ``job_ids`` that are terminal, in the order in which they finished."""
    rows = [
        row
        for chunk in chunks(job_ids)
        for row in connection.execute(_JOBS.where(JobRow.id.in_(chunk), JobRow.state.in_(TERMINAL_STATES)))
    ]
    return [_job(row) for row in sorted(rows, key=lambda row: (row.finished_at, row.id))]


def newest(
    connection: Connection,
    *,
    state: JobState | None = None,
    label: str | None = None,
    submission_id: UUID | None = None,
    limit: int = 50,
) -> list[Job]:
    """Return jobs, newest first, that match every filter given."""
    statement = _JOBS.order_by(JobRow.id.desc()).limit(limit)
    if state is not None:
        statement = statement.where(JobRow.state == state)
    if label is not None:
        statement = statement.where(JobRow.label == label)
    if submission_id is not None:
        statement = statement.where(JobRow.submission_id == submission_id)
    return [_job(row) for row in connection.execute(statement)]


def counts(connection: Connection, submission_id: UUID | None = None) -> dict[JobState, int]:
    """Return how many jobs are in each state, of one submission or of all; absent means 0."""
    statement = select(JobRow.state, func.count()).group_by(JobRow.state)
    if submission_id is not None:
        statement = statement.where(JobRow.submission_id == submission_id)
    return {JobState(state): count for state, count in connection.execute(statement)}


def submission_job_ids(connection: Connection, submission_id: UUID) -> list[UUID] | None:
    """Return a submission's job ids in the order submitted, or None if there is no such submission."""
    if connection.execute(select(Submission.id).where(Submission.id == submission_id)).first() is None:
        return None
    statement = select(JobRow.id).where(JobRow.submission_id == submission_id).order_by(JobRow.position)
    return list(connection.execute(statement).scalars())
