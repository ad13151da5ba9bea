"""What passes between the job table and a worker's pipeline."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from alexq_schema.job import Prediction


@dataclass(frozen=True, slots=True)
class Claim:
    """A job that this worker holds; ``attempt`` is the fence that its commit must name."""

    job_id: UUID
    attempt: int
    submission_id: UUID | None
    task: str
    source: str
    image_key: str


@dataclass(frozen=True, slots=True)
class Succeeded:
    """The image went through the model."""

    claim: Claim
    predictions: tuple[Prediction, ...]
    decode_s: float
    forward_s: float
    batch_size: int


@dataclass(frozen=True, slots=True)
class Failed:
    """The input's fault; never retried."""

    claim: Claim
    code: str
    detail: str


@dataclass(frozen=True, slots=True)
class Errored:
    """Ours: the job returns to the queue, or is dead when its attempts are used up."""

    claim: Claim
    code: str
    detail: str


Outcome = Succeeded | Failed | Errored
