"""Past results that may answer later jobs: of the same tenant, bytes, model version and options.

Only jobs that ask for it write and read here. A row stays when the job that it was made for is deleted.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Integer, and_, bindparam, delete, func, select
from sqlalchemy.dialects import postgresql, sqlite

from alexq_schema.db.clock import now
from alexq_schema.db.rows import among, is_still_in, unindexed
from alexq_schema.db.tables import Job, PastResult, Submission
from alexq_schema.job import JobState
from alexq_schema.options import asked_of_model
from alexq_schema.work import Claim, Predictions, Reused, Succeeded

_TENANT = func.coalesce(Submission.tenant, "")
_FIND = (
    select(Job.id, PastResult.options, PastResult.job_id, PastResult.predictions)
    .select_from(Job)
    .outerjoin(Submission, Submission.id == Job.submission_id)
    .join(PastResult, and_(PastResult.image_key == unindexed(Job.image_key), PastResult.tenant == _TENANT))
    .where(
        among(Job.id, "b_ids"),
        among(PastResult.image_key, "b_keys"),  # whichever is read first, it is not more than was asked for
        PastResult.model_id == bindparam("b_model", type_=Integer),
    )
)


def find(connection: Connection, claims: Sequence[Claim], model_id: int) -> list[Reused]:
    """Return the outcomes of those that a past result of this version answers: one statement."""
    ids, keys = [claim.job_id for claim in claims], sorted({claim.image_key for claim in claims})
    rows = connection.execute(_FIND, {"b_ids": ids, "b_keys": keys, "b_model": model_id})
    known: dict[tuple[UUID, str], Any] = {(row.id, row.options): row for row in rows}
    return [
        Reused(claim, _predictions(row.predictions), model_id, row.job_id)
        for claim in claims
        if (row := known.get((claim.job_id, asked_of_model(claim.options)))) is not None
    ]


def _predictions(kept: Sequence[dict[str, Any]]) -> Predictions:
    best = kept[0] if kept else {"label": None, "probability": None}
    return Predictions(best["label"], best["probability"], json.dumps(kept))


_KEPT = (
    select(
        Job.image_key,
        _TENANT,
        Job.model_id,
        bindparam("b_options", type_=PastResult.options.type),
        Job.id,
        Job.finished_at,
        Job.predictions,
    )
    .select_from(Job)
    .outerjoin(Submission, Submission.id == Job.submission_id)
    .where(
        Job.id == bindparam("b_job", type_=Job.id.type),
        Job.attempt == bindparam("b_held", type_=Integer),
        Job.worker_id == bindparam("b_worker", type_=Job.worker_id.type),
        is_still_in(JobState.SUCCEEDED),
    )
)
_COLUMNS = ("image_key", "tenant", "model_id", "options", "job_id", "finished_at", "predictions")


def keep(connection: Connection, outcomes: Sequence[Succeeded], worker_id: UUID) -> None:
    """Keep the results that this transaction has just committed; what the fence refused is not there."""
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    statement = dialect.insert(PastResult).from_select(_COLUMNS, _KEPT).on_conflict_do_nothing()
    rows = [
        {
            "b_job": outcome.claim.job_id,
            "b_held": outcome.claim.attempt,
            "b_worker": worker_id,
            "b_options": asked_of_model(outcome.claim.options),
        }
        for outcome in sorted(outcomes, key=_order)
    ]
    connection.execute(statement, rows)


def _order(outcome: Succeeded) -> tuple[str, str]:
    """In one order in every worker: an INSERT waits for another's of the same key."""
    return outcome.claim.image_key, asked_of_model(outcome.claim.options)


def delete_old(connection: Connection, *, older_than_s: float, limit: int) -> None:
    """Delete up to ``limit`` that were made before that."""
    old = (
        select(PastResult.id)
        .where(PastResult.finished_at < now(connection) - timedelta(seconds=older_than_s))
        .order_by(PastResult.finished_at)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    connection.execute(delete(PastResult).where(PastResult.id.in_(old)))
