"""The job as everyone sees it: the SDK's object, the CLI's JSON line, the HTTP resource."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Literal, Self
from uuid import UUID

from pydantic import BaseModel, ConfigDict

TOP_K = 5
"""Predictions kept for each job (fewer where the model has fewer labels)."""


class JobState(StrEnum):
    """Where a job is in its life."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    """The input's fault; never retried."""
    DEAD = "dead"
    """Ours: attempts or crashes used up; can be redriven."""
    CANCELLED = "cancelled"
    EXPIRED = "expired"

    @property
    def is_terminal(self) -> bool:
        """Return whether nothing but a redrive changes this state."""
        return self not in (JobState.QUEUED, JobState.RUNNING)


TERMINAL_STATES = tuple(state for state in JobState if state.is_terminal)


class Prediction(BaseModel):
    """One label of a result."""

    model_config = ConfigDict(frozen=True)

    rank: int
    """1 is the best."""
    index: int
    """The class index in the model's label list."""
    label: str
    probability: float


class ModelRef(BaseModel):
    """Which model version made a result."""

    model_config = ConfigDict(frozen=True)

    name: str
    version: str
    precision: str
    trained: bool
    """False marks seeded untrained weights: the labels mean nothing."""


class JobError(BaseModel):
    """Why a job has no result."""

    model_config = ConfigDict(frozen=True)

    code: str
    """A ``code`` of :mod:`alexq_schema.errors`."""
    detail: str


class Timings(BaseModel):
    """Where the time went, in seconds; None for what has not happened."""

    model_config = ConfigDict(frozen=True)

    waited_s: float | None = None
    """From accepted to claimed by a worker."""
    decode_s: float | None = None
    forward_s: float | None = None
    """The forward pass of the whole batch that the image was in."""
    total_s: float | None = None
    """From accepted to the result committed."""


class Job(BaseModel):
    """One image to classify, and what became of it."""

    model_config = ConfigDict(frozen=True)

    job_id: UUID | None
    """None for an input that was refused: it never became a job."""
    submission_id: UUID | None = None
    source: str
    """The file or object name that the submitter gave."""
    state: JobState | Literal["rejected"]
    attempt: int
    errors: int = 0
    """Attempts that ended in an error of ours."""
    crashes: int = 0
    """Processes that died while they held this job."""
    worker: str | None = None
    """Who holds it, or held it last: ``host:pid``."""
    image_key: str | None = None
    """SHA-256 of the image; None for an input that was refused."""
    reused_from: UUID | None = None
    """The job whose past result answers this one, which may be gone by now; None: it was computed."""
    predictions: list[Prediction]
    """Best first; empty unless succeeded."""
    model: ModelRef | None
    error: JobError | None
    timings: Timings
    created_at: datetime | None = None
    finished_at: datetime | None = None

    @classmethod
    def rejected(cls, source: str, code: str, detail: str) -> Self:
        """Return an input that was refused, and why, in the shape of a job."""
        return cls(
            job_id=None,
            source=source,
            state="rejected",
            attempt=0,
            predictions=[],
            model=None,
            error=JobError(code=code, detail=detail),
            timings=Timings(),
        )

    @property
    def label(self) -> str | None:
        """The best label, or None when there is no result."""
        return self.predictions[0].label if self.predictions else None

    @property
    def probability(self) -> float | None:
        """The best label's probability, or None when there is no result."""
        return self.predictions[0].probability if self.predictions else None
