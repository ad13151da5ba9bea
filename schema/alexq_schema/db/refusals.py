"""The record of messages from which no job could be made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, insert

from alexq_schema.db.clock import db_now
from alexq_schema.db.tables import RefusedMessage
from alexq_schema.text import storable


@dataclass(frozen=True, slots=True)
class Refusal:
    """One message and why it was refused."""

    task: str
    message_id: str
    code: str
    detail: str


def add(connection: Connection, refusals: Sequence[Refusal]) -> None:
    """Record refusals; what is long is cut."""
    rows = [
        {
            "task": storable(refusal.task)[:255],
            "message_id": storable(refusal.message_id)[:255],
            "code": refusal.code,
            "detail": storable(refusal.detail)[:2_000],
        }
        for refusal in refusals
    ]
    connection.execute(insert(RefusedMessage).values(at=db_now()), rows)
