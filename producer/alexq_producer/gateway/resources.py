"""What the gateway answers with, besides :class:`alexq_schema.job.Job`."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Self
from uuid import UUID

from pydantic import BaseModel, Field

from alexq_producer.submission import Rejection
from alexq_schema.db.pages import SubmissionRow
from alexq_schema.job import Job, JobState, ModelRef


class RejectedInput(BaseModel):
    """An image that was refused; it never became a job."""

    source: str
    code: str = Field(examples=["image_type_unsupported"])
    detail: str

    @classmethod
    def of(cls, rejection: Rejection) -> Self:
        """Return the resource for ``rejection``."""
        return cls(source=rejection.source, code=rejection.error.code, detail=rejection.error.detail)


class AcceptedSubmission(BaseModel):
    """What became of an upload of many images."""

    submission_id: UUID | None
    """None where every image was refused."""
    total: int
    """Jobs accepted."""
    job_ids: list[UUID]
    """In the order of the images that were accepted."""
    rejected: list[RejectedInput]


class Submission(BaseModel):
    """The jobs that one request handed in, and how far they are."""

    submission_id: UUID
    created_at: datetime
    total: int
    """Jobs accepted."""
    is_finished: bool
    counts: dict[JobState, int]
    """Jobs by state; a state that none is in is left out, as are old jobs that were deleted."""
    images_per_s: float | None
    """Finished jobs over the time since the first was begun; None before the first has finished."""
    estimated_finish_at: datetime | None
    """When the rest will be done at that rate; None where that cannot be told."""

    @classmethod
    def of(cls, row: SubmissionRow) -> Self:
        """Return the resource for ``row``."""
        done = sum(count for state, count in row.counts.items() if state.is_terminal)
        left = sum(row.counts.values()) - done
        rate = None
        if done and row.first_claimed_at and row.last_finished_at:
            lasted_s = (row.last_finished_at - row.first_claimed_at).total_seconds()
            rate = done / lasted_s if lasted_s > 0 else None
        finish_at = None
        if left and rate and row.last_finished_at:
            finish_at = row.last_finished_at + timedelta(seconds=left / rate)
        return cls(
            submission_id=row.id,
            created_at=row.created_at,
            total=row.total,
            is_finished=not left,
            counts=row.counts,
            images_per_s=None if rate is None else round(rate, 2),
            estimated_finish_at=finish_at,
        )


class JobPage(BaseModel):
    """Jobs, newest first."""

    jobs: list[Job]
    next_cursor: str | None
    """Give it as ``cursor`` to see the following page; None: this is the last."""


class SubmissionPage(BaseModel):
    """Submissions, newest first."""

    submissions: list[Submission]
    next_cursor: str | None
    """Give it as ``cursor`` to see the following page; None: this is the last."""


class Model(ModelRef):
    """A model version that workers serve or have served."""

    workers: int
    """Workers that serve it now."""


class Models(BaseModel):
    """Model versions."""

    models: list[Model]


class Health(BaseModel):
    """Whether a part answers."""

    status: str = Field(examples=["ok"])


class Readiness(Health):
    """Whether the gateway can accept jobs."""

    database: str = Field(examples=["ok"])
    broker: str = Field(examples=["ok"])
    """``unavailable``: jobs are accepted all the same and wait for it."""
