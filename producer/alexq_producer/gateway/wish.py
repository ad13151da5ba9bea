"""What a request with images asks for, and what becomes of it."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from alexq_producer.gateway.entries import Reference, Remote
from alexq_producer.submission import Rejection
from alexq_schema.db.accept import NewJob
from alexq_schema.db.deliveries import Notice
from alexq_schema.job import Job
from alexq_schema.names import DEFAULT_QUEUE, Lane, QueueLane
from alexq_schema.options import Options


@dataclass(frozen=True, slots=True)
class Wish:
    """How a request wants its images treated."""

    tenant: str | None
    lane: Lane
    deadline_s: float | None
    skips_rejected: bool
    """Whether images that are refused are listed, the others accepted."""
    key: str | None
    """The ``Idempotency-Key``."""
    notice: Notice | None = None
    """Which webhook is told when all has ended."""
    model: str | None = None
    """``name/version`` that they must be done with; None: whichever is active."""
    options: Options | None = None
    """How they are to be classified; None: as ever."""
    queue: str = DEFAULT_QUEUE
    """The caller's: whose workers do them."""
    reuse: bool = False
    """Whether the caller's key lets past results answer, whatever the options say."""

    @property
    def at(self) -> QueueLane:
        """Where they wait."""
        return QueueLane(self.queue, self.lane)


@dataclass(frozen=True, slots=True)
class Accepted:
    """What became of a request's images."""

    submission_id: UUID | None
    """None where all were refused, and listed."""
    jobs: list[Job]
    """As they were when accepted, or, for a repeated request, as they are."""
    rejected: list[Rejection]
    is_replay: bool = False
    """The key stood for this submission already."""


Item = NewJob | Reference | Remote | Rejection
"""What has become of an entry; references are still to be looked up, and what is remote not fetched."""
