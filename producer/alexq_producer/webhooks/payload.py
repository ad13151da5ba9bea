"""What a receiver is told, in Standard Webhooks' shape and signed its way."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Connection
from standardwebhooks import Webhook as Signer

from alexq_schema.db import pages, queries
from alexq_schema.db.deliveries import ClaimedDelivery
from alexq_schema.webhooks import Event


def body_of(connection: Connection, claimed: ClaimedDelivery) -> bytes | None:
    """Return the JSON to be told: ``{"type", "timestamp", "data"}``; None where the jobs are deleted.

    ``timestamp`` is when the last job ended. ``data`` is the job, or how many jobs ended in which state and
    where their results are.
    """
    found = pages.submission(connection, None, claimed.submission_id)
    if found is None:
        return None
    handed, tally = found
    if tally.last_finished_at is None:
        return None
    if claimed.event is Event.JOB_FINISHED:
        [job] = queries.by_id(connection, queries.submission_job_ids(connection, handed.id) or [])
        data: dict[str, Any] = job.model_dump(mode="json")
    else:
        data = {
            "submission_id": str(handed.id),
            "total": handed.total,
            "counts": {state.value: count for state, count in tally.counts.items()},
            "results": f"/v1/submissions/{handed.id}/results",
        }
    told = {"type": claimed.event, "timestamp": tally.last_finished_at.isoformat(), "data": data}
    return json.dumps(told, ensure_ascii=False, separators=(",", ":")).encode()


def headers_of(delivery_id: UUID, body: bytes, secrets: Sequence[str], at: datetime) -> Mapping[str, str]:
    """Return the headers of an attempt at ``at``, with a signature by each of ``secrets``."""
    at = at.astimezone(UTC)
    told_id, text = str(delivery_id), body.decode()
    return {
        "Content-Type": "application/json",
        "User-Agent": "alexq",
        "webhook-id": told_id,
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": " ".join(Signer(secret).sign(told_id, at, text) for secret in secrets),
    }
