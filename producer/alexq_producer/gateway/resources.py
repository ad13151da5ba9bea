"""What the gateway answers with, besides :class:`alexq_schema.job.Job`."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Self
from uuid import UUID

from pydantic import BaseModel, Field

from alexq_producer.submission import Rejection
from alexq_schema.db.tallies import Handed, Tally
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
    def of(cls, handed: Handed, tally: Tally) -> Self:
        """Return the resource."""
        finish_at = None
        if tally.left_s is not None and tally.last_finished_at is not None:
            finish_at = tally.last_finished_at + timedelta(seconds=tally.left_s)
        return cls(
            submission_id=handed.id,
            created_at=handed.created_at,
            total=handed.total,
            is_finished=not tally.left,
            counts=tally.counts,
            images_per_s=None if tally.per_s is None else round(tally.per_s, 2),
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
