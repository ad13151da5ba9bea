"""The job state machine: every transition, each one conditional UPDATE.

    (accept) ──▶ queued ──claim──▶ running ──commit──▶ succeeded | failed | queued | dead | expired
                  │ ▲ ▲              │ │
                  │ │ └───release────┘ └──return_silent──▶ queued | dead
                  │ └─────redrive────── dead
                  └──expire──▶ expired
    queued, running ──cancel──▶ cancelled

A transition that finds the job in another state, or another attempt of it, writes 0 rows: that is
how duplicated messages and workers that wake up late do no harm. Everything takes a connection in
a transaction of :meth:`alexq_schema.db.session.Database.begin`; no function commits. What goes another
way than the one that succeeds is written to ``job_events`` too. The module is longer than 300 lines
because a state machine is checked by reading it whole.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeVar
from uuid import UUID

from pydantic_core import to_json
from sqlalchemy import (
    ColumnElement,
    Connection,
    Float,
    Insert,
    String,
    Text,
    Update,
    and_,
    bindparam,
    case,
    column,
    func,
    insert,
    literal,
    null,
    or_,
    select,
    update,
)

from alexq_schema.db.clock import db_now, seconds_between
from alexq_schema.db.rows import (
    IS_ENDED,
    IS_QUEUED,
    IS_RUNNING,
    among,
    from_text,
    is_in,
    is_still_in,
    literal_state,
    locked,
    rows_given,
)
from alexq_schema.db.tables import Job, JobEvent, Worker
from alexq_schema.errors import DeadlineError, WorkerCrashedError
from alexq_schema.job import JobState
from alexq_schema.names import DEFAULT_QUEUE
from alexq_schema.text import storable
from alexq_schema.work import Answered, Claim, Crashed, Errored, Failed, Late, Outcome, Reused, Succeeded

Id = TypeVar("Id", UUID, str)

SUSPECT_ATTEMPTS = 10
"""Claims after which a worker's death is charged to a suspect too."""

IDS_PER_STATEMENT = 5_000
"""Jobs that one transaction redrives, at most."""


class JobEventKind(StrEnum):
    """What is recorded of a job besides its row."""

    ERRORED = "errored"
    CRASHED = "crashed"
    REDRIVEN = "redriven"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class Limits:
    """After how much of ours a job is dead."""

    max_attempts: int
    """Attempts that ended in an error of ours."""
    max_crashes: int
    """Processes that died while they held it."""


@dataclass(frozen=True, slots=True)
class Ended:
    """A job that the sweeper took out of a worker's hands or out of the queue."""

    job_id: UUID
    submission_id: UUID | None
    state: JobState


_WORKER = bindparam("b_worker", type_=Job.worker_id.type)
_IS_DUE = and_(
    is_still_in(JobState.QUEUED),
    or_(Job.retry_at.is_(None), Job.retry_at <= db_now()),
    or_(Job.expires_at.is_(None), Job.expires_at > db_now()),
)
_IS_RETAKEN = and_(is_still_in(JobState.RUNNING), Job.worker_id == _WORKER)
_CLAIM = (
    update(Job)
    .where(
        Job.id.in_(
            select(Job.id)
            .where(among(Job.id, "b_ids"), Job.queue == bindparam("b_queue"), or_(_IS_DUE, _IS_RETAKEN))
            .with_for_update(skip_locked=True)  # PostgreSQL; two claims of the same ids cannot deadlock
        )
    )
    .values(state=JobState.RUNNING, attempt=Job.attempt + 1, worker_id=_WORKER, claimed_at=db_now())
    .returning(
        Job.id,
        Job.attempt,
        Job.submission_id,
        Job.task,
        Job.source,
        Job.image_key,
        Job.errors,
        Job.crashes,
        seconds_between(Job.created_at, Job.claimed_at),
        Job.image_bytes,
        Job.pinned_model,
        Job.options,
        seconds_between(Job.claimed_at, Job.expires_at),
        Job.traceparent,
        Job.position,
    )
)
"""Returns the fields of a :class:`~alexq_schema.work.Claim`, in their order."""


def claim(
    connection: Connection, job_ids: Sequence[UUID], worker_id: UUID, queue: str = DEFAULT_QUEUE
) -> list[Claim]:
    """Take those of ``job_ids`` that are queued and due; the others are done, or another worker's.

    Those of another queue than the worker's are left to its workers, whichever message named them.

    A job that runs under this worker already is taken anew, so that a claim whose answer got lost can
    be repeated: ask only for jobs that the worker does not hold.

    Returns:
        The claimed jobs in queue order.
    """
    rows = connection.execute(_CLAIM, {"b_ids": job_ids, "b_worker": worker_id, "b_queue": queue})
    claims = [Claim._make(row) for row in rows]
    # UUIDs are compared in Python, their numbers are not
    return sorted(claims, key=lambda claim: ((claim.submission_id or claim.job_id).int, claim.position))


_FIELDS = (
    *(Job.id, Job.attempt, Job.error_code, Job.error_detail),
    *(Job.model_id, Job.label, Job.probability, Job.reused_from),
    *(Job.decode_s, Job.forward_s, Job.batch_size),
)
_OUTCOME = rows_given(
    "outcomes",
    *(column(field.name, field.type) for field in _FIELDS),
    column("predictions", Text()),
    column("pause_s", Float()),
)
"""Attempts that a worker holds, and what became of them; what one kind of outcome does not have is null."""
_IS_MINE = and_(
    Job.id == _OUTCOME.c.id,
    Job.attempt == _OUTCOME.c.attempt,
    Job.worker_id == _WORKER,
    is_still_in(JobState.RUNNING),
)
"""The fence: a job whose attempt is still held by the worker."""
_MINE = update(Job).where(_IS_MINE)


def _given_in(*fields: str) -> dict[str, ColumnElement[Any]]:
    """Return the values of columns that are as the outcome has them."""
    return {field: _OUTCOME.c[field] for field in fields}


def _record(kind: JobEventKind, values: Mapping[str, Any], *conditions: ColumnElement[bool]) -> Insert:
    """Return the INSERT of an event for each job that matches, its row locked."""
    columns = {"at": db_now(), "kind": literal(kind.value, String), **values}
    chosen = select(*columns.values()).where(*conditions).order_by(Job.id).with_for_update(of=Job)
    return insert(JobEvent).from_select(list(columns), chosen)


def _named(actor: str) -> ColumnElement[str]:
    return literal(storable(actor)[:255], String)


def _record_mine(kind: JobEventKind) -> Insert:
    """Return the INSERT of an event for each job that is about to be written, under the same fence."""
    values: dict[str, Any] = {
        "job_id": Job.id,
        "attempt": Job.attempt,
        "worker_id": Job.worker_id,
        "code": _OUTCOME.c.error_code,
        "detail": _OUTCOME.c.error_detail,
    }
    return _record(kind, values, _IS_MINE)


_GIVEN_ERROR = _given_in("error_code", "error_detail")
_EXPIRED: dict[str, Any] = {
    "state": JobState.EXPIRED,
    "finished_at": db_now(),
    "error_code": DeadlineError.code,
    "error_detail": "no worker was free in time to do it by its deadline: submit again, or add workers",
}
_ANSWER = _MINE.values(
    state=literal_state(JobState.SUCCEEDED),
    finished_at=db_now(),
    predictions=from_text(_OUTCOME.c.predictions),
    error_code=null(),
    error_detail=null(),
    **_given_in("model_id", "label", "probability"),
)
_SUCCEED = _ANSWER.values(**_given_in("decode_s", "forward_s", "batch_size"))
_BACK: dict[str, Any] = {"state": JobState.QUEUED, "published_at": None}
_DEAD: dict[str, Any] = {"state": JobState.DEAD, "published_at": None, "finished_at": db_now()}
_REST = {"retry_at": db_now(_OUTCOME.c.pause_s)}
_ONE_ERROR: dict[str, Any] = {"errors": Job.errors + 1, **_GIVEN_ERROR}
_ONE_CRASH: dict[str, Any] = {"crashes": Job.crashes + 1, **_GIVEN_ERROR}
_ERRORED, _CRASHED = _record_mine(JobEventKind.ERRORED), _record_mine(JobEventKind.CRASHED)
_WRITES: dict[tuple[type[Outcome], JobState], tuple[Insert | Update, ...]] = {
    (Succeeded, JobState.SUCCEEDED): (_SUCCEED,),
    (Reused, JobState.SUCCEEDED): (_ANSWER.values(**_given_in("reused_from")),),
    (Failed, JobState.FAILED): (_MINE.values(state=JobState.FAILED, finished_at=db_now(), **_GIVEN_ERROR),),
    (Errored, JobState.QUEUED): (_ERRORED, _MINE.values(**_BACK, **_REST, **_ONE_ERROR)),
    (Errored, JobState.DEAD): (_ERRORED, _MINE.values(**_DEAD, retry_at=None, **_ONE_ERROR)),
    (Crashed, JobState.QUEUED): (_CRASHED, _MINE.values(**_BACK, **_ONE_CRASH)),
    (Crashed, JobState.DEAD): (_CRASHED, _MINE.values(**_DEAD, **_ONE_CRASH)),
    (Late, JobState.EXPIRED): (_MINE.values(**_EXPIRED),),
}
"""What is executed for each kind of outcome and the state it leads to; the last one moves the job."""
_LOCK = select(func.count()).select_from(locked(among(Job.id, "b_ids")).subquery())


def commit(
    connection: Connection,
    outcomes: Sequence[Outcome],
    *,
    worker_id: UUID,
    limits: Limits,
    pause_s: Callable[[int], float],
) -> dict[JobState, int]:
    """Write what became of claimed jobs: the same few statements, however many jobs.

    Args:
        pause_s: how long a job rests after its so-manyeth error of ours.

    Returns:
        How many jobs are now in which state; fewer than ``outcomes`` in all when the fence refused some.
    """
    rows: dict[tuple[type[Outcome], JobState], list[dict[str, Any]]] = {}
    for outcome in outcomes:
        state = _state_after(outcome, limits)
        row = _held(outcome.claim) | _what_became(outcome, state, pause_s)
        rows.setdefault((type(outcome), state), []).append(row)
    _lock(connection, [outcome.claim for outcome in outcomes])
    written: Counter[JobState] = Counter()
    for kind, of_kind in rows.items():
        given = _given(of_kind, worker_id)
        written[kind[1]] += [connection.execute(each, given).rowcount for each in _WRITES[kind]][-1]
    return dict(written)


def _lock(connection: Connection, claims: Sequence[Claim]) -> None:
    """Lock the rows of ``claims`` in order: an UPDATE takes them as its plan comes by them.

    SQLite has one writer at a time.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(_LOCK, {"b_ids": [claim.job_id for claim in claims]})


def _state_after(outcome: Outcome, limits: Limits) -> JobState:
    """Return the state that an outcome leads to; what the claim counted holds as long as the fence does."""
    match outcome:
        case Succeeded() | Reused():
            return JobState.SUCCEEDED
        case Failed():
            return JobState.FAILED
        case Late():
            return JobState.EXPIRED
        case Errored():
            is_last = not outcome.is_retryable or outcome.claim.errors + 1 >= limits.max_attempts
        case Crashed():
            is_last = outcome.claim.crashes + 1 >= limits.max_crashes
    return JobState.DEAD if is_last else JobState.QUEUED


def _given(rows: Iterable[Mapping[str, Any]], worker_id: UUID) -> dict[str, Any]:
    return {"outcomes": to_json(list(rows)).decode(), "b_worker": worker_id}


def _held(claim: Claim) -> dict[str, Any]:
    return {"id": claim.job_id.hex, "attempt": claim.attempt}


def _what_became(outcome: Outcome, state: JobState, pause_s: Callable[[int], float]) -> dict[str, Any]:
    """Return what the statements of this kind of outcome need beside the fence."""
    match outcome:
        case Reused():
            return _answer(outcome) | {"reused_from": outcome.job_id.hex}
        case Succeeded():
            return _answer(outcome) | {
                "decode_s": outcome.decode_s,
                "forward_s": outcome.forward_s,
                "batch_size": outcome.batch_size,
            }
        case Late():
            return {}
    error = {"error_code": outcome.code, "error_detail": storable(outcome.detail)}
    if isinstance(outcome, Errored) and state is JobState.QUEUED:
        return error | {"pause_s": pause_s(outcome.claim.errors + 1)}
    return error


def _answer(outcome: Answered) -> dict[str, Any]:
    return {
        "model_id": outcome.model_id,
        "label": outcome.predictions.label and outcome.predictions.label[:255],
        "probability": outcome.predictions.probability,
        "predictions": outcome.predictions.json,
    }


_RELEASE = _MINE.values(state=JobState.QUEUED, attempt=Job.attempt - 1, worker_id=None, claimed_at=None)


def release(connection: Connection, claims: Sequence[Claim], *, worker_id: UUID) -> int:
    """Give claimed jobs back untouched: queued, their attempt not used up. Returns rows written.

    Their message goes back to the broker too, so they count as published.
    """
    if not claims:
        return 0
    _lock(connection, claims)
    return connection.execute(_RELEASE, _given(map(_held, claims), worker_id)).rowcount


def return_silent(connection: Connection, *, silent_after_s: float, limits: Limits) -> list[Ended]:
    """Take back the jobs of workers that showed no progress for ``silent_after_s``, or that have left.

    Each becomes a suspect: it may be what killed its worker. A suspect runs in a child, so that a
    worker that dies later is not its fault, and it is not charged again; but not without end
    (``SUSPECT_ATTEMPTS``), in case it takes child and worker down together.

    Returns:
        Each job taken back: queued again, or dead.
    """
    gone = select(Worker.id).where(
        or_(
            Worker.last_seen_at < db_now(-silent_after_s),
            Worker.stopped_at.is_not(None),
            Worker.unhealthy_at.is_not(None),
        )
    )
    theirs = (
        select(Job.id)
        .where(IS_RUNNING, Job.worker_id.in_(gone))
        .order_by(Job.id)
        .with_for_update(skip_locked=True)
    )
    charge = case((or_(Job.crashes == 0, Job.attempt >= SUSPECT_ATTEMPTS), 1), else_=0)
    is_last = Job.crashes + charge >= limits.max_crashes
    statement = (
        update(Job)
        .where(Job.id.in_(theirs))
        .values(
            state=case((is_last, JobState.DEAD.value), else_=JobState.QUEUED.value),
            finished_at=case((is_last, db_now()), else_=None),
            published_at=None,
            crashes=Job.crashes + charge,
            error_code=WorkerCrashedError.code,
            error_detail=_FELL_SILENT,
        )
        .returning(Job.id, Job.submission_id, Job.state, Job.attempt, Job.worker_id)
    )
    rows = connection.execute(statement).all()
    if rows:
        event = insert(JobEvent).values(
            at=db_now(), kind=JobEventKind.CRASHED, code=WorkerCrashedError.code, detail=_FELL_SILENT
        )
        connection.execute(
            event, [{"job_id": row.id, "attempt": row.attempt, "worker_id": row.worker_id} for row in rows]
        )
    return [Ended(row.id, row.submission_id, JobState(row.state)) for row in rows]


_FELL_SILENT = "the worker that held this job fell silent"


def expire(connection: Connection, *, limit: int) -> list[Ended]:
    """End up to ``limit`` queued jobs whose deadline has passed."""
    late = (
        select(Job.id)
        .where(IS_QUEUED, Job.expires_at.is_not(None), Job.expires_at <= db_now())
        .order_by(Job.expires_at)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    statement = update(Job).where(Job.id.in_(late)).values(**_EXPIRED).returning(Job.id, Job.submission_id)
    return [Ended(row.id, row.submission_id, JobState.EXPIRED) for row in connection.execute(statement)]


_CANCEL = (
    update(Job)
    .where(Job.id.in_(locked(among(Job.id, "b_ids"), ~IS_ENDED)))
    .values(state=JobState.CANCELLED, finished_at=db_now())
    .returning(Job.submission_id, Job.id)
)


def cancel(connection: Connection, job_ids: Sequence[UUID], *, actor: str) -> list[tuple[UUID | None, UUID]]:
    """Cancel those that are not terminal: a queued job at once, a running one's result is discarded.

    Args:
        actor: who does it, for the record.

    Returns:
        (submission id, job id) of each that was cancelled.
    """
    rows = connection.execute(_CANCEL, {"b_ids": job_ids}).all()
    if rows:
        done = {"job_id": Job.id, "attempt": Job.attempt, "worker_id": Job.worker_id, "actor": _named(actor)}
        record = _record(JobEventKind.CANCELLED, done, among(Job.id, "b_ids"))
        connection.execute(record, {"b_ids": [row.id for row in rows]})
    return [(row.submission_id, row.id) for row in rows]


def redrive(
    connection: Connection,
    job_ids: Sequence[UUID] | None = None,
    *,
    error_code: str | None = None,
    submission_id: UUID | None = None,
    actor: str,
    limit: int = IDS_PER_STATEMENT,
) -> list[UUID]:
    """Queue up to ``limit`` dead jobs that match every filter given again, with fresh attempts.

    Each is recorded with what it was dead of. A job that is not dead is left alone, so a repeated call
    does nothing.

    Args:
        job_ids: at most ``limit``; None means every dead job.
        actor: who does it, for the record.

    Returns:
        Those queued again; with ``limit`` of them there may be more.
    """
    conditions = [is_in(JobState.DEAD)]
    if job_ids is not None:
        conditions.append(among(Job.id, "b_asked"))
    if error_code is not None:
        conditions.append(Job.error_code == error_code)
    if submission_id is not None:
        conditions.append(Job.submission_id == submission_id)
    asked = {"b_asked": job_ids} if job_ids is not None else {}
    chosen = {"b_ids": list(connection.execute(locked(*conditions).limit(limit), asked).scalars())}
    are_chosen = among(Job.id, "b_ids")
    past = {
        "job_id": Job.id,
        "attempt": Job.attempt,
        "worker_id": Job.worker_id,
        "code": Job.error_code,
        "detail": Job.error_detail,
        "actor": _named(actor),
    }
    connection.execute(_record(JobEventKind.REDRIVEN, past, are_chosen), chosen)
    connection.execute(
        update(Job)
        .where(are_chosen)
        .values(
            state=JobState.QUEUED,
            errors=0,
            crashes=0,
            retry_at=None,
            expires_at=None,
            finished_at=None,
            published_at=None,
            error_code=None,
            error_detail=None,
        ),
        chosen,
    )
    return chosen["b_ids"]


def chunks(ids: Sequence[Id]) -> Iterator[Sequence[Id]]:
    """Yield ``ids`` in parts, for a transaction each."""
    for start in range(0, len(ids), IDS_PER_STATEMENT):
        yield ids[start : start + IDS_PER_STATEMENT]
