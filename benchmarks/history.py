"""A week of jobs in a database, made by the database itself, for what reads them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

from sqlalchemy import Connection, text

from alexq_schema.db import workers
from alexq_schema.job import ModelRef
from alexq_schema.names import TASK_CLASSIFY_JOBS

WEEK_S = 7 * 86_400
SUBMISSION = 1_000
LABELS = 1_000
DEAD_OF = 20
"""One job in so many is dead; one in a hundred failed."""
MODEL = ModelRef(name="alexnet", version="imagenet1k-v1", precision="bf16", trained=True)


@dataclass(frozen=True)
class _Dialect:
    """How a database says it; ``{i}`` is a job's number from 0, ``{ms}`` milliseconds since 1970."""

    numbers: str
    id: str
    time: str
    key: str
    json: str


_SQLITE = _Dialect(
    numbers="WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < {count} - 1)",
    id="printf('%012x70008%015x', {ms}, {i})",
    time="strftime('%Y-%m-%d %H:%M:%f000', {ms} / 1000.0, 'unixepoch')",
    key="printf('%064x', {i} * 2654435761)",
    json="'[]'",
)
_POSTGRESQL = _Dialect(
    numbers="WITH n(i) AS (SELECT generate_series(0::bigint, {count} - 1))",
    id="(lpad(to_hex(({ms})::bigint), 12, '0') || '70008' || lpad(to_hex({i}), 15, '0'))::uuid",
    time="to_timestamp({ms} / 1000.0)",
    key="md5({i}::text) || md5((-{i})::text)",
    json="'[]'::jsonb",
)


def insert_week(connection: Connection, count: int) -> tuple[UUID, UUID]:
    """Insert ``count`` ended jobs, evenly over the week until now, in submissions of a thousand.

    Returns:
        A submission and a job from the middle of the week.
    """
    is_sqlite = connection.dialect.name == "sqlite"
    dialect = _SQLITE if is_sqlite else _POSTGRESQL
    numbers = dialect.numbers.format(count=count)
    began_ms = int((datetime.now(UTC).timestamp() - WEEK_S) * 1_000)
    step_ms = WEEK_S * 1_000 // count

    def said(text: str, i: str, later_ms: int = 0) -> str:
        return text.format(i=i, ms=f"({began_ms + later_ms} + {i} * {step_ms})")

    of_job = said(dialect.id, f"(i / {SUBMISSION} * {SUBMISSION})")
    submissions = (
        "INSERT INTO submissions (id, created_at, total, tenant) "
        f"{numbers} SELECT {said(dialect.id, 'i')}, {said(dialect.time, 'i')}, {SUBMISSION},"
        f" CASE WHEN i / {SUBMISSION} % 10 = 0 THEN 'shop' ELSE 'archive' END"
        f" FROM n WHERE i % {SUBMISSION} = 0"
    )
    connection.execute(text(submissions))
    model_id = workers.register_model(connection, MODEL, "1" * 64)
    is_dead, is_failed = f"i % {DEAD_OF} = 7", "i % 100 = 3"
    went_well = f"CASE WHEN {is_dead} OR {is_failed} THEN NULL ELSE"
    jobs = (
        "INSERT INTO jobs (id, submission_id, position, task, lane, source, image_key, image_bytes, state,"
        " attempt, errors, crashes, error_code, error_detail, created_at, published_at, claimed_at,"
        " finished_at, decode_s, forward_s, batch_size, model_id, label, probability, predictions) "
        f"{numbers} SELECT {said(dialect.id, 'i')}, {of_job}, i % {SUBMISSION}, '{TASK_CLASSIFY_JOBS}',"
        f" 'bulk', 'photos/' || i || '.jpg', {said(dialect.key, 'i')}, 56000,"
        f" CASE WHEN {is_dead} THEN 'dead' WHEN {is_failed} THEN 'failed' ELSE 'succeeded' END, 1, 0, 0,"
        f" CASE WHEN {is_dead} THEN 'image_lost' WHEN {is_failed} THEN 'image_truncated' END,"
        f" CASE WHEN {is_dead} OR {is_failed} THEN 'what was wrong with it' END,"
        f" {said(dialect.time, 'i')}, {said(dialect.time, 'i')}, {said(dialect.time, 'i', 900)},"
        f" {said(dialect.time, 'i', 1_400)}, {went_well} 0.004 END, {went_well} 0.08 END,"
        f" {went_well} 64 END, {went_well} {model_id} END,"
        f" {went_well} 'label ' || (i * 7919 % {LABELS}) END, {went_well} (i % 97) / 97.0 END,"
        f" {went_well} {dialect.json} END FROM n"
    )
    connection.execute(text(jobs))
    middle = count // 2 // SUBMISSION * SUBMISSION
    return tuple(
        UUID(int=began_ms + at * step_ms << 80 | 7 << 76 | 8 << 60 | at) for at in (middle, middle + 1)
    )
