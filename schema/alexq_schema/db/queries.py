"""What is read of jobs: as the objects that everyone sees."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, func, select, union_all

from alexq_schema.db.rows import IS_ENDED, IS_QUEUED, IS_RUNNING, among, is_in
from alexq_schema.db.tables import Job as JobRow
from alexq_schema.db.tables import ModelVersion, Submission, Worker
from alexq_schema.job import TERMINAL_STATES, Job, JobState

_JOBS = (
    select(
        JobRow.id,
        JobRow.submission_id,
        JobRow.source,
        JobRow.state,
        JobRow.attempt,
        JobRow.errors,
        JobRow.crashes,
        JobRow.image_key,
        JobRow.predictions,
        JobRow.error_code,
        JobRow.error_detail,
        JobRow.decode_s,
        JobRow.forward_s,
        JobRow.reused_from,
        JobRow.created_at,
        JobRow.claimed_at,
        JobRow.finished_at,
        ModelVersion.name.label("model_name"),
        ModelVersion.version.label("model_version"),
        ModelVersion.precision.label("model_precision"),
        ModelVersion.trained.label("model_trained"),
        Worker.host.label("worker_host"),
        Worker.pid.label("worker_pid"),
    )
    .select_from(JobRow)
    .outerjoin(ModelVersion, JobRow.model_id == ModelVersion.id)
    .outerjoin(Worker, JobRow.worker_id == Worker.id)
)
_BY_ID = _JOBS.where(among(JobRow.id, "b_ids"))
_FINISHED = _BY_ID.where(JobRow.state.in_(TERMINAL_STATES))


def _job(row: Any) -> Job:
    # The parts as plain values: pydantic makes all of their objects in one step.
    model = {
        "name": row.model_name,
        "version": row.model_version,
        "precision": row.model_precision,
        "trained": row.model_trained,
    }
    predictions = row.predictions or ()
    return Job.model_validate(
        {
            "job_id": row.id,
            "submission_id": row.submission_id,
            "source": row.source,
            "state": row.state,
            "attempt": row.attempt,
            "errors": row.errors,
            "crashes": row.crashes,
            "worker": None if row.worker_host is None else f"{row.worker_host}:{row.worker_pid}",
            "image_key": row.image_key,
            "reused_from": row.reused_from,
            "predictions": [{"rank": rank, **one} for rank, one in enumerate(predictions, start=1)],
            "model": None if row.model_name is None else model,
            "error": None
            if row.error_code is None
            else {"code": row.error_code, "detail": row.error_detail or ""},
            "timings": {
                "waited_s": _seconds(row.created_at, row.claimed_at),
                "decode_s": row.decode_s,
                "forward_s": row.forward_s,
                "total_s": _seconds(row.created_at, row.finished_at),
            },
            "created_at": row.created_at,
            "finished_at": row.finished_at,
        }
    )


def _seconds(start: Any, end: Any) -> float | None:
    return None if end is None else round((end - start).total_seconds(), 6)


def by_id(connection: Connection, job_ids: Sequence[UUID]) -> list[Job]:
    """Return those of ``job_ids`` that exist, in their order."""
    found = {row.id: _job(row) for row in connection.execute(_BY_ID, {"b_ids": job_ids})}
    return [found[job_id] for job_id in job_ids if job_id in found]


def finished(connection: Connection, job_ids: Sequence[UUID]) -> list[Job]:
    """Return those of ``job_ids`` that are terminal, in the order in which they finished."""
    rows = connection.execute(_FINISHED, {"b_ids": job_ids})
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
        statement = statement.where(is_in(state))
    if label is not None:
        statement = statement.where(JobRow.label == label)
    if submission_id is not None:
        statement = statement.where(JobRow.submission_id == submission_id)
    return [_job(row) for row in connection.execute(statement)]


def counts(connection: Connection, submission_id: UUID | None = None) -> dict[JobState, int]:
    """Return how many jobs are in each state, of one submission or of all; absent means 0."""
    if submission_id is None:  # each part counts one index, not the rows
        conditions = [IS_ENDED, IS_QUEUED, IS_RUNNING]
    else:
        conditions = [JobRow.submission_id == submission_id]
    parts = [
        select(JobRow.state, func.count()).where(condition).group_by(JobRow.state) for condition in conditions
    ]
    return {JobState(row[0]): row[1] for row in connection.execute(union_all(*parts))}


def submission_job_ids(connection: Connection, submission_id: UUID) -> list[UUID] | None:
    """Return a submission's job ids in the order submitted, or None if there is no such submission."""
    if connection.execute(select(Submission.id).where(Submission.id == submission_id)).first() is None:
        return None
    statement = select(JobRow.id).where(JobRow.submission_id == submission_id).order_by(JobRow.position)
    return list(connection.execute(statement).scalars())


def traceparent_of(connection: Connection, submission_id: UUID) -> str | None:
    """Return the sampled trace that a submission was handed in by, if it was."""
    statement = select(JobRow.traceparent).where(JobRow.submission_id == submission_id)
    return connection.execute(statement.order_by(JobRow.id).limit(1)).scalar()


def submission_places(connection: Connection, submission_id: UUID) -> dict[UUID, int]:
    """Return a submission's job ids and positions: those that finished in completion order, then the rest."""
    statement = (
        select(JobRow.id, JobRow.position)
        .where(JobRow.submission_id == submission_id)
        .order_by(JobRow.finished_at.nulls_last(), JobRow.id)
    )
    return {row.id: row.position for row in connection.execute(statement)}
