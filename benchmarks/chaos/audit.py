"""The checker's own witness: triggers that write down every change of a job's state and every message.

Rows of ``chaos_audit``: ``kind`` ``state`` (old and new state, attempt, worker) or ``published``. They are
made by the database in the transaction of the change itself, so what was rolled back is not there.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

import sqlalchemy
from sqlalchemy import Connection, text

TERMINAL = frozenset({"succeeded", "failed", "dead", "cancelled", "expired"})

_SQLITE = (
    """CREATE TABLE chaos_audit (n INTEGER PRIMARY KEY AUTOINCREMENT, job_id TEXT, kind TEXT, old_state TEXT,
       new_state TEXT, attempt INTEGER, worker_id TEXT, at TEXT)""",
    """CREATE TRIGGER chaos_state AFTER UPDATE OF state ON jobs BEGIN
       INSERT INTO chaos_audit (job_id, kind, old_state, new_state, attempt, worker_id, at)
       VALUES (NEW.id, 'state', OLD.state, NEW.state, NEW.attempt, COALESCE(NEW.worker_id, OLD.worker_id),
               strftime('%Y-%m-%d %H:%M:%f', 'now')); END""",
    """CREATE TRIGGER chaos_published AFTER UPDATE OF published_at ON jobs
       WHEN NEW.published_at IS NOT NULL BEGIN
       INSERT INTO chaos_audit (job_id, kind, old_state, new_state, attempt, worker_id, at)
       VALUES (NEW.id, 'published', OLD.state, NEW.state, NEW.attempt, NULL,
               strftime('%Y-%m-%d %H:%M:%f', 'now')); END""",
)
_POSTGRESQL = (
    """CREATE TABLE chaos_audit (n bigserial PRIMARY KEY, job_id uuid, kind text, old_state text,
       new_state text, attempt integer, worker_id uuid, at timestamptz)""",
    """CREATE FUNCTION chaos_note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
       INSERT INTO chaos_audit (job_id, kind, old_state, new_state, attempt, worker_id, at)
       VALUES (NEW.id, TG_ARGV[0], OLD.state, NEW.state, NEW.attempt,
               COALESCE(NEW.worker_id, OLD.worker_id), clock_timestamp());
       RETURN NULL; END $$""",
    """CREATE TRIGGER chaos_state AFTER UPDATE OF state ON jobs
       FOR EACH ROW EXECUTE FUNCTION chaos_note('state')""",
    """CREATE TRIGGER chaos_published AFTER UPDATE OF published_at ON jobs FOR EACH ROW
       WHEN (NEW.published_at IS NOT NULL) EXECUTE FUNCTION chaos_note('published')""",
)


@dataclass(frozen=True)
class Change:
    """One row of the audit."""

    job_id: UUID
    kind: str
    old: str
    new: str
    attempt: int
    worker_id: UUID | None
    at: float
    """Unix time, by the database's clock, which is this machine's."""


def install(connection: Connection) -> None:
    """Create table and triggers in a migrated database that has no jobs yet."""
    for statement in _SQLITE if connection.dialect.name == "sqlite" else _POSTGRESQL:
        connection.execute(text(statement))


def read(connection: Connection) -> list[Change]:
    """Return everything that was written down, in order."""
    rows = connection.execute(
        text("SELECT job_id, kind, old_state, new_state, attempt, worker_id, at FROM chaos_audit ORDER BY n")
    )
    return [
        Change(as_uuid(r[0]), r[1], r[2], r[3], r[4], as_uuid(r[5]) if r[5] else None, unix_time(r[6]))
        for r in rows
    ]


def as_uuid(value: object) -> UUID:
    """Return an id as either database gives it."""
    return value if isinstance(value, UUID) else UUID(str(value))


def unix_time(value: object) -> float:
    """Return a time as either database gives it; SQLite's text is in UTC."""
    moment = value if isinstance(value, datetime) else datetime.fromisoformat(str(value))
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def duplicated(changes: Iterable[Change]) -> set[UUID]:
    """Return the jobs that ended more than once without a redrive, or changed after their end."""
    ended: set[UUID] = set()
    twice: set[UUID] = set()
    for change in changes:
        if change.kind != "state":
            continue
        if change.old == "dead" and change.new == "queued":  # a redrive
            ended.discard(change.job_id)
        elif change.old in TERMINAL:
            twice.add(change.job_id)
        if change.new in TERMINAL:
            if change.job_id in ended:
                twice.add(change.job_id)
            ended.add(change.job_id)
    return twice


def reclaims(changes: Iterable[Change], deaths: dict[UUID, float]) -> list[float]:
    """Return, for each job that a worker held when it died, the seconds until it was taken back.

    Args:
        deaths: Unix time of death by worker id.
    """
    by_job: defaultdict[UUID, list[Change]] = defaultdict(list)
    for change in changes:
        if change.kind == "state":
            by_job[change.job_id].append(change)
    times = []
    for history in by_job.values():
        for claim, following in itertools.pairwise(history):
            died_at = deaths.get(claim.worker_id) if claim.worker_id else None
            if died_at is not None and claim.new == "running" and claim.at <= died_at < following.at:
                times.append(following.at - died_at)
    return times


def next_events(changes: Iterable[Change], job_ids: set[UUID], after: float) -> list[float]:
    """Return, for each of these jobs, the seconds from ``after`` to its next message or claim."""
    first: dict[UUID, float] = {}
    for change in changes:
        if change.job_id in job_ids and change.at > after and change.job_id not in first:
            first[change.job_id] = change.at - after
    return list(first.values())


def next_success(changes: Iterable[Change], after: float) -> float | None:
    """Return the seconds from ``after`` to the next job that succeeded."""
    return min((c.at - after for c in changes if c.new == "succeeded" and c.at > after), default=None)


def engine(url: str) -> sqlalchemy.Engine:
    """Return a plain engine: nothing of alexq's own code is between the checker and the database."""
    is_sqlite = url.startswith("sqlite")
    return sqlalchemy.create_engine(
        url,
        poolclass=sqlalchemy.NullPool,
        connect_args={"timeout": 30} if is_sqlite else {"connect_timeout": 5},
    )
