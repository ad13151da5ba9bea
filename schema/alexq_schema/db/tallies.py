"""Submissions and how far they are, for people who look; a tally reads each job of its submission."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from sqlalchemy import ColumnElement, Connection, func, select, true

from alexq_schema.db.clock import db_now
from alexq_schema.db.jobs import JobEventKind
from alexq_schema.db.rows import IS_ENDED, among
from alexq_schema.db.tables import Job, JobEvent, Submission
from alexq_schema.job import JobState


@dataclass(frozen=True, slots=True)
class Handed:
    """A submission as it was handed in."""

    id: UUID
    created_at: datetime
    total: int
    tenant: str | None


@dataclass(slots=True)
class Tally:
    """How far a submission is."""

    counts: dict[JobState, int] = field(default_factory=dict)
    """Jobs by state; fewer than were handed in where old ones were deleted."""
    first_claimed_at: datetime | None = None
    last_finished_at: datetime | None = None
    at: datetime | None = None
    """When it was read."""

    @property
    def ended(self) -> int:
        """Jobs that are done, one way or another."""
        return sum(number for state, number in self.counts.items() if state.is_terminal)

    @property
    def left(self) -> int:
        """Jobs that wait or run."""
        return sum(self.counts.values()) - self.ended

    @property
    def per_s(self) -> float | None:
        """Jobs a second, from the first that was claimed to the last that ended; to now while some are left.

        So a submission that stands still becomes slower.
        """
        until = self.at if self.left else self.last_finished_at
        if self.first_claimed_at is None or until is None:
            return None
        seconds = (until - self.first_claimed_at).total_seconds()
        return self.ended / seconds if seconds > 0 else None

    @property
    def left_s(self) -> float | None:
        """Time until it is done, as fast as so far."""
        return self.left / self.per_s if self.left and self.per_s else None


def handed(connection: Connection, *conditions: ColumnElement[bool], limit: int) -> list[Handed]:
    """Return the submissions that fulfil all conditions, newest first."""
    columns = (Submission.id, Submission.created_at, Submission.total, Submission.tenant)
    statement = select(*columns).where(*conditions).order_by(Submission.id.desc()).limit(limit)
    return [Handed(*row) for row in connection.execute(statement)]


def newest(connection: Connection, *, after: UUID | None, limit: int) -> list[Handed]:
    """Return submissions, newest first; of the page that follows the submission ``after``."""
    return handed(connection, true() if after is None else Submission.id < after, limit=limit)


def one(connection: Connection, submission_id: UUID) -> Handed | None:
    """Return a submission, or None where there is none."""
    found = handed(connection, Submission.id == submission_id, limit=1)
    return found[0] if found else None


def tally(connection: Connection, submission_ids: Sequence[UUID]) -> dict[UUID, Tally]:
    """Return how far these submissions are."""
    statement = (
        select(
            Job.submission_id,
            Job.state,
            func.count().label("jobs"),
            func.min(Job.claimed_at).label("claimed_at"),
            func.max(Job.finished_at).label("finished_at"),
            db_now().label("now"),
        )
        .where(among(Job.submission_id, "b_ids"))
        .group_by(Job.submission_id, Job.state)
    )
    found: defaultdict[UUID, Tally] = defaultdict(Tally)
    for row in connection.execute(statement, {"b_ids": list(submission_ids)}):
        it = found[row.submission_id]
        it.counts[JobState(row.state)] = row.jobs
        it.at = row.now
        if row.claimed_at is not None:
            it.first_claimed_at = min(it.first_claimed_at or row.claimed_at, row.claimed_at)
        if row.finished_at is not None:
            it.last_finished_at = max(it.last_finished_at or row.finished_at, row.finished_at)
    return dict(found)


def labels(connection: Connection, submission_id: UUID, limit: int) -> list[tuple[str, int]]:
    """Return the labels that a submission's images got most, and how many did."""
    statement = (
        select(Job.label, func.count().label("jobs"))
        .where(Job.submission_id == submission_id, Job.label.is_not(None))
        .group_by(Job.label)
        .order_by(func.count().desc(), Job.label)
        .limit(limit)
    )
    return [(row.label, row.jobs) for row in connection.execute(statement)]


@dataclass(frozen=True, slots=True)
class Cancellation:
    """Jobs of a submission that somebody cancelled, and when the last of them was."""

    actor: str | None
    jobs: int
    at: datetime


def cancellations(connection: Connection, submission_id: UUID) -> list[Cancellation]:
    """Return who cancelled jobs of a submission; who did it last first."""
    at = func.max(JobEvent.at)
    statement = (
        select(JobEvent.actor, func.count(), at)
        .join(Job, Job.id == JobEvent.job_id)
        .where(Job.submission_id == submission_id, JobEvent.kind == JobEventKind.CANCELLED)
        .group_by(JobEvent.actor)
        .order_by(at.desc())
    )
    return [Cancellation(*row) for row in connection.execute(statement)]


def open_ids(connection: Connection, submission_id: UUID, *, after: UUID | None, limit: int) -> list[UUID]:
    """Return ids of a submission's jobs that wait or run, in order, after the job ``after``."""
    statement = select(Job.id).where(Job.submission_id == submission_id, ~IS_ENDED)
    if after is not None:
        statement = statement.where(Job.id > after)
    return list(connection.execute(statement.order_by(Job.id).limit(limit)).scalars())
