"""The job state machine: every transition, each one conditional UPDATE.

    (insert) ──▶ queued ──claim──▶ running ──commit──▶ succeeded | failed | queued | dead
                   ▲ ▲               │ │
                   │ └────release────┘ └──return_silent──▶ queued | dead
                   └──────redrive────── dead
    queued, running ──cancel──▶ cancelled

A transition that finds the job in another state, or another attempt of it, writes 0 rows: that is
how duplicated messages and workers that wake up late do no harm. Everything takes a connection in
a transaction of :meth:`alexq_schema.db.session.Database.begin`; no function commits. The module is
longer than 300 lines because a state machine is checked by reading it whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    Update,
    and_,
    bindparam,
    case,
    insert,
    or_,
    select,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite

from alexq_schema.db.clock import db_now
from alexq_schema.db.tables import Job, Submission, Worker
from alexq_schema.errors import WorkerCrashedError
from alexq_schema.job import JobState
from alexq_schema.work import Claim, Errored, Failed, Outcome, Succeeded

IDS_PER_STATEMENT = 5_000
"""Ids in one IN list, at most: SQLite and PostgreSQL bound the parameters of a statement."""

ROWS_PER_STATEMENT = 1_000


@dataclass(frozen=True, slots=True)
class NewJob:
    """An accepted image, about to become a row."""

    job_id: UUID
    source: str
    image_key: str
    image_bytes: int


@dataclass(frozen=True, slots=True)
class Returned:
    """A job taken back from a worker that fell silent."""

    job_id: UUID
    submission_id: UUID | None
    state: JobState
    """Queued again, or dead."""


def add_submission(connection: Connection, submission_id: UUID, total: int) -> None:
    """Insert the row of a submission of ``total`` jobs."""
    connection.execute(insert(Submission).values(id=submission_id, total=total, created_at=db_now()))


_NEW = {
    "state": JobState.QUEUED,
    "attempt": 0,
    "errors": 0,
    "crashes": 0,
    "created_at": db_now(),
    "published_at": db_now(),
}


def add(connection: Connection, jobs: Sequence[NewJob], *, task: str, submission_id: UUID | None) -> None:
    """Insert queued jobs, as published: a message that then gets lost is the sweeper's to notice."""
    statement = insert(Job).values(_NEW)
    for start in range(0, len(jobs), ROWS_PER_STATEMENT):
        some = enumerate(jobs[start : start + ROWS_PER_STATEMENT], start)
        connection.execute(statement, [_row(job, position, task, submission_id) for position, job in some])


def add_if_absent(connection: Connection, job: NewJob, *, task: str) -> None:
    """Insert a queued job unless its id is there already: a message may be delivered twice."""
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    statement = dialect.insert(Job).values({**_NEW, **_row(job, 0, task, None)})
    connection.execute(statement.on_conflict_do_nothing(index_elements=[Job.id]))


def _row(job: NewJob, position: int, task: str, submission_id: UUID | None) -> dict[str, Any]:
    return {
        "id": job.job_id,
        "submission_id": submission_id,
        "position": position,
        "task": task,
        "source": _storable(job.source)[:1024],
        "image_key": job.image_key,
        "image_bytes": job.image_bytes,
    }


def claim(connection: Connection, job_ids: Sequence[UUID], worker_id: UUID) -> list[Claim]:
    """Take those of ``job_ids`` that are queued; the others are done, or another worker's.

    A job that runs under this worker already is taken anew, so that a claim whose answer got lost can
    be repeated: ask only for jobs that the worker does not hold.

    Returns:
        The claimed jobs in queue order.
    """
    is_mine = and_(Job.state == JobState.RUNNING, Job.worker_id == worker_id)
    takeable = (
        select(Job.id)
        .where(Job.id.in_(job_ids), or_(Job.state == JobState.QUEUED, is_mine))
        .with_for_update(skip_locked=True)  # PostgreSQL; two claims of the same ids cannot deadlock
    )
    statement = (
        update(Job)
        .where(Job.id.in_(takeable))
        .values(state=JobState.RUNNING, attempt=Job.attempt + 1, worker_id=worker_id, claimed_at=db_now())
        .returning(Job.id, Job.attempt, Job.submission_id, Job.task, Job.source, Job.image_key, Job.position)
    )
    rows = connection.execute(statement).all()
    ordered = sorted(rows, key=lambda row: (row.submission_id or row.id, row.position))
    return [
        Claim(row.id, row.attempt, row.submission_id, row.task, row.source, row.image_key) for row in ordered
    ]


def _mine(worker_id: UUID) -> Update:
    """Return the UPDATE of one job whose attempt is still held by ``worker_id``."""
    return update(Job).where(
        Job.id == bindparam("job"),
        Job.attempt == bindparam("held"),
        Job.worker_id == worker_id,
        Job.state == JobState.RUNNING,
    )


def _held(claim: Claim) -> dict[str, Any]:
    return {"job": claim.job_id, "held": claim.attempt}


def commit(
    connection: Connection, outcomes: Sequence[Outcome], *, worker_id: UUID, model_id: int, max_attempts: int
) -> int:
    """Write what became of claimed jobs: one statement for each kind of outcome.

    Returns:
        Rows written; fewer than ``outcomes`` when the fence refused some.
    """
    outcomes = sorted(outcomes, key=lambda o: o.claim.job_id)  # rows are locked in the order of their ids
    succeeded = [o for o in outcomes if isinstance(o, Succeeded)]
    failed = [o for o in outcomes if isinstance(o, Failed)]
    errored = [o for o in outcomes if isinstance(o, Errored)]
    written = 0
    if succeeded:
        written += _write(
            connection,
            _mine(worker_id).values(
                state=JobState.SUCCEEDED,
                finished_at=db_now(),
                model_id=model_id,
                label=bindparam("b_label"),
                probability=bindparam("b_probability"),
                predictions=bindparam("b_predictions", type_=Job.predictions.type),
                decode_s=bindparam("b_decode_s"),
                forward_s=bindparam("b_forward_s"),
                batch_size=bindparam("b_batch_size"),
                error_code=None,
                error_detail=None,
            ),
            [
                {
                    **_held(outcome.claim),
                    "b_label": outcome.predictions[0].label[:255],
                    "b_probability": outcome.predictions[0].probability,
                    "b_predictions": [p.model_dump(exclude={"rank"}) for p in outcome.predictions],
                    "b_decode_s": outcome.decode_s,
                    "b_forward_s": outcome.forward_s,
                    "b_batch_size": outcome.batch_size,
                }
                for outcome in succeeded
            ],
        )
    if failed:
        written += _write(
            connection,
            _mine(worker_id).values(
                state=JobState.FAILED,
                finished_at=db_now(),
                error_code=bindparam("b_code"),
                error_detail=bindparam("b_detail"),
            ),
            [_error(outcome) for outcome in failed],
        )
    if errored:
        is_last = Job.errors + 1 >= max_attempts
        written += _write(
            connection,
            _mine(worker_id).values(
                **_back_or_dead(is_last),
                errors=Job.errors + 1,
                error_code=bindparam("b_code"),
                error_detail=bindparam("b_detail"),
            ),
            [_error(outcome) for outcome in errored],
        )
    return written


def _error(outcome: Failed | Errored) -> dict[str, Any]:
    return {**_held(outcome.claim), "b_code": outcome.code, "b_detail": _storable(outcome.detail)}


def _storable(text: str) -> str:
    """Return ``text`` without what PostgreSQL cannot store: NUL, and file names that are not UTF-8."""
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace").decode()


def _back_or_dead(is_last: Any) -> dict[str, Any]:
    """Return the values that make a running job dead where ``is_last`` holds, else queued again."""
    return {
        "state": case((is_last, JobState.DEAD.value), else_=JobState.QUEUED.value),
        "finished_at": case((is_last, db_now()), else_=None),
        "published_at": None,
        "worker_id": None,
    }


def _write(connection: Connection, statement: Update, rows: list[dict[str, Any]]) -> int:
    return connection.execute(statement, rows).rowcount


def release(connection: Connection, claims: Sequence[Claim], *, worker_id: UUID) -> int:
    """Give claimed jobs back untouched: queued, their attempt not used up. Returns rows written.

    Their message goes back to the broker too, so they count as published.
    """
    if not claims:
        return 0
    statement = _mine(worker_id).values(
        state=JobState.QUEUED, attempt=Job.attempt - 1, worker_id=None, claimed_at=None
    )
    return _write(connection, statement, sorted(map(_held, claims), key=lambda row: row["job"]))


def return_silent(connection: Connection, *, silent_after_s: float, max_crashes: int) -> list[Returned]:
    """Take back the jobs of workers that showed no progress for ``silent_after_s``, or that have left."""
    gone = select(Worker.id).where(
        or_(Worker.last_seen_at < db_now(-silent_after_s), Worker.stopped_at.is_not(None))
    )
    theirs = (
        select(Job.id)
        .where(Job.state == JobState.RUNNING, Job.worker_id.in_(gone))
        .order_by(Job.id)
        .with_for_update(skip_locked=True)
    )
    is_last = Job.crashes + 1 >= max_crashes
    statement = (
        update(Job)
        .where(Job.id.in_(theirs))
        .values(
            **_back_or_dead(is_last),
            crashes=Job.crashes + 1,
            error_code=WorkerCrashedError.code,
            error_detail="the worker that held this job fell silent",
        )
        .returning(Job.id, Job.submission_id, Job.state)
    )
    return [Returned(row.id, row.submission_id, JobState(row.state)) for row in connection.execute(statement)]


def cancel(connection: Connection, job_ids: Sequence[UUID]) -> list[tuple[UUID | None, UUID]]:
    """Cancel those that are not terminal: a queued job at once, a running one's result is discarded.

    Returns:
        (submission id, job id) of each that was cancelled.
    """
    cancelled: list[tuple[UUID | None, UUID]] = []
    for chunk in chunks(job_ids):
        chosen = locked(Job.id.in_(chunk), Job.state.in_([JobState.QUEUED, JobState.RUNNING]))
        statement = (
            update(Job)
            .where(Job.id.in_(chosen))
            .values(state=JobState.CANCELLED, finished_at=db_now())
            .returning(Job.submission_id, Job.id)
        )
        cancelled += [(row.submission_id, row.id) for row in connection.execute(statement)]
    return cancelled


def redrive(connection: Connection, job_ids: Sequence[UUID] | None) -> list[UUID]:
    """Queue dead jobs again with fresh attempts; None means every dead job."""
    is_dead = Job.state == JobState.DEAD
    if job_ids is None:
        chosen = [locked(is_dead)]
    else:
        chosen = [locked(is_dead, Job.id.in_(chunk)) for chunk in chunks(job_ids)]
    statement = (
        update(Job)
        .values(
            state=JobState.QUEUED,
            errors=0,
            crashes=0,
            finished_at=None,
            published_at=None,
            error_code=None,
            error_detail=None,
        )
        .returning(Job.id)
    )
    return [
        job_id
        for some in chosen
        for job_id in connection.execute(statement.where(Job.id.in_(some))).scalars()
    ]


def locked(*conditions: ColumnElement[bool]) -> Select[UUID]:
    """Return the ids of matching jobs, their rows locked in order so that writers cannot deadlock."""
    return select(Job.id).where(*conditions).order_by(Job.id).with_for_update()


def chunks(job_ids: Sequence[UUID]) -> Iterator[Sequence[UUID]]:
    """Yield ``job_ids`` in parts that fit into one statement on every database."""
    for start in range(0, len(job_ids), IDS_PER_STATEMENT):
        yield job_ids[start : start + IDS_PER_STATEMENT]
