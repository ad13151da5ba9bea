"""What the dashboard reads of the whole system: workers, what is dead, what a batch costs."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import ColumnElement, Connection, func, select

from alexq_schema.db.clock import db_now
from alexq_schema.db.jobs import JobEventKind
from alexq_schema.db.rows import among, is_in, is_still_in
from alexq_schema.db.tables import Job, JobEvent, ModelVersion, Submission, Worker
from alexq_schema.db.workers import MemoryUse
from alexq_schema.job import JobState, ModelRef
from alexq_schema.names import DEFAULT_QUEUE


@dataclass(frozen=True, slots=True)
class WorkerState:
    """A worker process and when it last showed itself."""

    id: UUID
    host: str
    pid: int
    device: str
    model: ModelRef
    started_at: datetime
    silent_s: float
    """Since it last showed progress."""
    stopped: bool
    """It left in good order."""
    unhealthy: str | None
    """Why it found itself unable to get on, if it did."""
    batch_limit: int | None = None
    """Images in one of its batches, at most."""
    memory: MemoryUse | None = None
    """What is taken of the device's memory; on the CPU, of the host's by this worker."""
    refused_model: str | None = None
    """The active version, where it cannot use it and goes on with another."""
    refused_reason: str | None = None
    queue: str = DEFAULT_QUEUE
    """What it serves."""

    @property
    def name(self) -> str:
        """``host:pid``."""
        return f"{self.host}:{self.pid}"

    def is_alive(self, silent_after_s: float) -> bool:
        """Return whether it takes work."""
        return not self.stopped and self.unhealthy is None and self.silent_s <= silent_after_s


def workers(connection: Connection, *, seen_within_s: float) -> list[WorkerState]:
    """Return the workers that showed themselves lately, those that started last first."""
    statement = (
        select(
            Worker.id,
            Worker.host,
            Worker.pid,
            Worker.device,
            Worker.started_at,
            Worker.last_seen_at,
            Worker.stopped_at,
            Worker.unhealthy_at,
            Worker.unhealthy_reason,
            Worker.batch_limit,
            Worker.memory_used_bytes,
            Worker.memory_total_bytes,
            Worker.refused_model,
            Worker.refused_reason,
            Worker.queue,
            ModelVersion.name,
            ModelVersion.version,
            ModelVersion.precision,
            ModelVersion.trained,
            db_now().label("now"),
        )
        .join(ModelVersion)
        .where(Worker.last_seen_at >= db_now(-seen_within_s))
        .order_by(Worker.started_at.desc())
    )
    return [
        WorkerState(
            id=row.id,
            host=row.host,
            pid=row.pid,
            device=row.device,
            model=ModelRef(name=row.name, version=row.version, precision=row.precision, trained=row.trained),
            started_at=row.started_at,
            silent_s=max(0.0, (row.now - row.last_seen_at).total_seconds()),
            stopped=row.stopped_at is not None,
            unhealthy=(row.unhealthy_reason or "it gave no reason") if row.unhealthy_at else None,
            batch_limit=row.batch_limit,
            memory=(
                MemoryUse(row.memory_used_bytes, row.memory_total_bytes) if row.memory_total_bytes else None
            ),
            refused_model=row.refused_model,
            refused_reason=row.refused_reason,
            queue=row.queue,
        )
        for row in connection.execute(statement)
    ]


def last_seen_s(connection: Connection) -> float | None:
    """Return how long ago a worker last showed itself, or None where none ever did."""
    row = connection.execute(select(func.max(Worker.last_seen_at).label("at"), db_now().label("now"))).one()
    return None if row.at is None else max(0.0, (row.now - row.at).total_seconds())


@dataclass(frozen=True, slots=True)
class DeadGroup:
    """The jobs that are dead of one thing."""

    error_code: str | None
    jobs: int
    newest_at: datetime
    submissions: int


@dataclass(frozen=True, slots=True)
class Dead:
    """How many jobs are dead, and of what."""

    jobs: int = 0
    looked_at: int = 0
    """The newest of them, which the groups are made of."""
    groups: Sequence[DeadGroup] = ()
    """The most frequent first."""


def dead(connection: Connection, submission_id: UUID | None = None, *, look_at: int = 10_000) -> Dead:
    """Return how many jobs are dead, of all or one submission's, and what the newest ``look_at`` died of."""
    conditions = _dead(submission_id)
    jobs = connection.execute(select(func.count()).select_from(Job).where(*conditions)).scalar_one()
    newest = (
        select(Job.error_code, Job.finished_at, Job.submission_id)
        .where(*conditions)
        .order_by(Job.id.desc())
        .limit(look_at)
        .subquery()
    )
    statement = (
        select(
            newest.c.error_code,
            func.count().label("jobs"),
            func.max(newest.c.finished_at).label("newest_at"),
            func.count(newest.c.submission_id.distinct()).label("submissions"),
        )
        .group_by(newest.c.error_code)
        .order_by(func.count().desc(), newest.c.error_code)
    )
    groups = [
        DeadGroup(row.error_code, row.jobs, row.newest_at, row.submissions)
        for row in connection.execute(statement)
    ]
    return Dead(jobs, min(jobs, look_at), groups)


def dead_ids(
    connection: Connection,
    *,
    error_code: str | None,
    submission_id: UUID | None = None,
    after: UUID | None,
    limit: int,
) -> list[UUID]:
    """Return ids of dead jobs, newest first; of the page that follows the job ``after``."""
    statement = select(Job.id).where(*_dead(submission_id))
    if error_code is not None:
        statement = statement.where(Job.error_code == error_code)
    if after is not None:
        statement = statement.where(Job.id < after)
    return list(connection.execute(statement.order_by(Job.id.desc()).limit(limit)).scalars())


def _dead(submission_id: UUID | None) -> list[ColumnElement[bool]]:
    if submission_id is None:
        return [is_in(JobState.DEAD)]
    return [Job.submission_id == submission_id, is_still_in(JobState.DEAD)]


@dataclass(frozen=True, slots=True)
class Event:
    """One line of the record."""

    job_id: UUID
    at: datetime
    kind: str
    attempt: int
    code: str | None
    detail: str | None
    actor: str | None


_EVENTS = select(
    JobEvent.job_id,
    JobEvent.at,
    JobEvent.kind,
    JobEvent.attempt,
    JobEvent.code,
    JobEvent.detail,
    JobEvent.actor,
)
_LOOK_AT_EVENTS = 10_000


def redrives(connection: Connection, limit: int) -> list[Event]:
    """Return up to ``limit`` redrives, the last first; only the record's newest lines are looked at."""
    newest = select(JobEvent.id, JobEvent.kind).order_by(JobEvent.id.desc()).limit(_LOOK_AT_EVENTS).subquery()
    ids = select(newest.c.id).where(newest.c.kind == JobEventKind.REDRIVEN).order_by(newest.c.id.desc())
    rows = connection.execute(
        _EVENTS.where(JobEvent.id.in_(ids.limit(limit).subquery().select())).order_by(JobEvent.id.desc())
    )
    return [Event(*row) for row in rows]


def events(connection: Connection, job_id: UUID) -> list[Event]:
    """Return the record of a job, oldest first."""
    rows = connection.execute(_EVENTS.where(JobEvent.job_id == job_id).order_by(JobEvent.id))
    return [Event(*row) for row in rows]


def batch_of(connection: Connection, job_id: UUID) -> tuple[int | None, str | None, str]:
    """Return how many images the job's batch had, its tenant and its queue."""
    statement = (
        select(Job.batch_size, Submission.tenant, Job.queue)
        .outerjoin(Submission, Submission.id == Job.submission_id)
        .where(Job.id == job_id)
    )
    row = connection.execute(statement).first()
    return (None, None, DEFAULT_QUEUE) if row is None else (row[0], row[1], row[2])


@dataclass(frozen=True, slots=True)
class Served:
    """Where the time of one job that succeeded went, in seconds."""

    batch_size: int
    waited_s: float
    decode_s: float
    forward_s: float
    held_s: float
    """From claimed to committed."""
    worker_id: UUID | None


def recently_served(connection: Connection, limit: int) -> list[Served]:
    """Return the jobs that succeeded last, newest first, of the ``limit`` that ended last."""
    statement = (
        select(
            Job.batch_size,
            Job.created_at,
            Job.claimed_at,
            Job.finished_at,
            Job.decode_s,
            Job.forward_s,
            Job.worker_id,
        )
        .where(Job.finished_at.is_not(None))
        .order_by(Job.finished_at.desc())
        .limit(limit)
    )
    return [
        Served(
            batch_size=row.batch_size,
            waited_s=max(0.0, (row.claimed_at - row.created_at).total_seconds()),
            decode_s=row.decode_s or 0.0,
            forward_s=row.forward_s or 0.0,
            held_s=max(0.0, (row.finished_at - row.claimed_at).total_seconds()),
            worker_id=row.worker_id,
        )
        for row in connection.execute(statement)
        if row.batch_size is not None  # it succeeded
    ]


def worker_names(connection: Connection, worker_ids: Collection[UUID]) -> dict[UUID, tuple[str, str]]:
    """Return ``host:pid`` and the device of these workers."""
    statement = select(Worker.id, Worker.host, Worker.pid, Worker.device).where(among(Worker.id, "b_ids"))
    rows = connection.execute(statement, {"b_ids": list(worker_ids)})
    return {row.id: (f"{row.host}:{row.pid}", row.device) for row in rows}
