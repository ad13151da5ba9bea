"""What the pipeline needs of the outside; the composition root hands it in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from alexq_schema.job import Job, JobState
from alexq_schema.options import Options
from alexq_schema.work import Claim, Outcome, PredictionWriter, Reused

Pixels = NDArray[np.uint8]


class JobTable(Protocol):
    """The rows: each call is one transaction.

    Every method raises DatabaseUnavailableError when the database does not answer.
    """

    def claim(self, job_ids: Sequence[UUID]) -> list[Claim]:
        """Take those that are queued; must be repeatable when its answer got lost.

        Never asked for a job that the pipeline holds.
        """

    def find_past(self, claims: Sequence[Claim], model_id: int) -> list[Reused]:
        """Return the outcomes of those of one model version that a past result answers."""

    def commit(self, outcomes: Sequence[Outcome]) -> Committed:
        """Write what became of claimed jobs."""

    def release(self, claims: Sequence[Claim]) -> None:
        """Give claimed jobs back, their attempt not used up."""


class Committed(Protocol):
    """What a commit did."""

    @property
    def states(self) -> Mapping[JobState, int]:
        """How many jobs are now in which state; ``queued`` are those to be tried again."""

    @property
    def fenced(self) -> int:
        """Outcomes that were refused: the job was no longer this worker's."""

    @property
    def answers(self) -> Mapping[UUID, Job]:
        """The jobs, as committed, whose submitter waits for them at Celery's own door."""


class ImageLoader(Protocol):
    """Reads images; see :class:`alexq_schema.images.ImageStore`."""

    @property
    def is_remote(self) -> bool:
        """Whether reading waits for a network."""

    def get(self, key: str) -> bytes:
        """Return the encoded image."""


class Picture(Protocol):
    """One decoded and resized image, in one crop or several."""

    def write_to(self, out: Pixels) -> None:
        """Write RGB into a batch: one crop into uint8[crop, crop, 3], several into uint8[crops, …]."""


class Decoder(Protocol):
    """Turns encoded images into pictures; many threads call it at once."""

    def decode(self, data: bytes, crops: int = 1) -> Picture:
        """Return the picture in 1 or 10 crops.

        Raises:
            ImageError: the input's fault, typed.
        """


class TopK(Protocol):
    """The best classes of each image of a batch, best first."""

    @property
    def indices(self) -> NDArray[np.int64]:
        """int64[B, K]."""

    @property
    def probabilities(self) -> NDArray[np.float32]:
        """float32[B, K]."""


Answer = tuple[Sequence[int], Sequence[float]]
"""Classes, best first, and their probabilities."""


class Engine(Protocol):
    """A model version on the device; only the pipeline's engine thread calls ``classify``."""

    def new_batch(self) -> Pixels:
        """Return uint8[max_batch, crop, crop, 3] host memory that the device reads fast."""

    @property
    def batch_limit(self) -> int:
        """Images in one call of ``classify``, at most; falls when the device runs out of memory."""

    def lower_limit(self) -> None:
        """Halve ``batch_limit``."""

    def classify(self, images: Pixels) -> TopK:
        """Classify uint8[B, crop, crop, 3], 1 <= B <= batch_limit; any exception fails the whole batch.

        Raises:
            DeviceMemoryError: a smaller batch may do.
        """

    def score(self, images: Pixels, wanted: Sequence[Options]) -> Sequence[Answer]:
        """Classify images of which some want more; any exception fails them all.

        Args:
            images: uint8[E, crop, crop, 3], any number: the entries of the first image, of the second, …

        Raises:
            DeviceMemoryError: after :meth:`lower_limit` it may do.
        """

    def check(self) -> None:
        """Raise unless the device still classifies an image that is known to be good."""

    def close(self) -> None:
        """Give its memory back: nothing more is asked of it."""


class Version(Protocol):
    """Which model version a result is made with, and how its row says so."""

    @property
    def ref(self) -> str:
        """``name/version``."""

    @property
    def model_id(self) -> int:
        """What the row refers to."""

    @property
    def predictions(self) -> PredictionWriter:
        """Its labels."""


class Isolation(Protocol):
    """Runs suspects, one at a time, where they can do no harm; one thread calls it."""

    def classify(self, claim: Claim, version: Version) -> Outcome:
        """Return what became of a job that ran alone in a child process; never raises for its sake.

        Crashed when the child died or broke a limit.
        """

    def stop(self) -> None:
        """End the child, if there is one. May be called from any thread, and twice."""
