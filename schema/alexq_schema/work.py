"""What passes between the job table and a worker's pipeline.

What every job has is a tuple: a frozen dataclass takes five times as long to make.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple
from uuid import UUID

from pydantic_core import to_json

from alexq_schema.errors import WorkerCrashedError
from alexq_schema.text import storable


class Claim(NamedTuple):
    """A job that this worker holds; ``attempt`` is the fence that its commit must name."""

    job_id: UUID
    attempt: int
    submission_id: UUID | None
    task: str
    source: str
    image_key: str
    errors: int = 0
    """Attempts before this one that ended in an error of ours."""
    crashes: int = 0
    """Processes that died while they held this job; any makes it a suspect, to be run alone."""
    waited_s: float = 0.0
    """Seconds from its acceptance to the claim, by the database's clock."""
    image_bytes: int = 0
    """Size of its image."""
    pinned: str | None = None
    """``name/version`` of the model version that the job must be done with; None: the active one."""
    options: Mapping[str, Any] | None = None
    """How it is to be classified, as the row keeps it; None: as ever."""
    left_s: float | None = None
    """Seconds from the claim to its deadline, by the database's clock; None: it has none."""
    traceparent: str | None = None
    """The sampled trace that it belongs to."""
    position: int = 0
    """Its place in the submission."""

    @property
    def reuses(self) -> bool:
        """Return whether a past result may answer it, and its own later ones."""
        return self.options is not None and bool(self.options.get("reuse"))


class Predictions(NamedTuple):
    """A result as the job table keeps it."""

    label: str | None
    """The best; None where none is likely enough."""
    probability: float | None
    """Its own."""
    json: str
    """All, best first: an array of ``{"index", "label", "probability"}``."""


NOTHING = Predictions(None, None, "[]")
"""Of an image of which no label is likely enough."""


class PredictionWriter:
    """Writes the predictions of one model version: its labels are made into JSON once, not for each job."""

    def __init__(self, labels: Sequence[str]) -> None:
        """Prepare for ``labels`` in class-index order."""
        self.classes = len(labels)
        self._labels = [storable(label) for label in labels]
        self._beginnings = [
            f'{{"index": {index}, "label": {json.dumps(label)}, "probability": '
            for index, label in enumerate(self._labels)
        ]

    def write(self, indices: Sequence[int], probabilities: Sequence[float]) -> Predictions:
        """Return the predictions of one image from its best classes, best first; all finite."""
        if not indices:
            return NOTHING
        numbers = to_json(probabilities)[1:-1].decode().split(",")  # a third of repr's time
        parts = [self._beginnings[i] + number for i, number in zip(indices, numbers, strict=True)]
        return Predictions(self._labels[indices[0]], probabilities[0], f"[{'}, '.join(parts)}}}]")


class Succeeded(NamedTuple):
    """The image went through the model."""

    claim: Claim
    predictions: Predictions
    model_id: int
    """The version that made them, as ``model_versions`` has it."""
    decode_s: float
    forward_s: float
    batch_size: int | None
    """Images that went through together; None for a job without a place, which another's forward answered."""


@dataclass(frozen=True, slots=True)
class Reused:
    """A past result answers it: neither fetched nor decoded nor inferred."""

    claim: Claim
    predictions: Predictions
    model_id: int
    """The version that made them."""
    job_id: UUID
    """The job that they were made for."""


@dataclass(frozen=True, slots=True)
class Failed:
    """The input's fault; never retried."""

    claim: Claim
    code: str
    detail: str


@dataclass(frozen=True, slots=True)
class Errored:
    """Ours: the job returns to the queue after a pause, or is dead.

    Dead when the error is not retryable or the attempts are used up.
    """

    claim: Claim
    code: str
    detail: str
    is_retryable: bool = True


@dataclass(frozen=True, slots=True)
class Crashed:
    """The process that ran this job alone died of it, or had to be ended."""

    claim: Claim
    detail: str
    """How it died: the signal or exit code, the limit it broke."""
    code: str = WorkerCrashedError.code


@dataclass(frozen=True, slots=True)
class Late:
    """It could not be done by its deadline any more, so it was not begun."""

    claim: Claim


Answered = Succeeded | Reused
Outcome = Succeeded | Reused | Failed | Errored | Crashed | Late
