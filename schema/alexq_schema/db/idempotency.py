"""Idempotency keys: which submission a client's key stands for.

A key is claimed in the transaction that inserts its submission, so there is no moment at which one exists
without the other, whoever is killed when; two processes that claim one key at once are told apart by the
primary key.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import Connection, ForeignKey, Index, String, delete, select, tuple_
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Mapped, mapped_column

from alexq_schema.db.clock import db_now
from alexq_schema.db.tables import Base

KEPT_S = 86_400.0
"""How long a key stands for its submission."""

MAX_KEY_LENGTH = 255


class IdempotencyKey(Base):
    """One key of one tenant."""

    __tablename__ = "idempotency_keys"

    tenant: Mapped[str] = mapped_column(String(64), primary_key=True)
    """Empty for a gateway without API keys."""
    key: Mapped[str] = mapped_column(String(MAX_KEY_LENGTH), primary_key=True)
    fingerprint: Mapped[str] = mapped_column(String(64))
    """SHA-256 of what the request asked for."""
    submission_id: Mapped[UUID] = mapped_column(
        # At the end of the transaction: the submission is inserted after its key.
        ForeignKey("submissions.id", ondelete="CASCADE", deferrable=True, initially="DEFERRED")
    )
    expires_at: Mapped[datetime]

    __table_args__ = (
        Index("ix_idempotency_keys_submission", "submission_id"),
        Index("ix_idempotency_keys_expires", "expires_at"),
    )


@dataclass(frozen=True, slots=True)
class Claim:
    """A key that a new submission is to be known by."""

    tenant: str
    key: str
    fingerprint: str
    submission_id: UUID


def claim(connection: Connection, claims: Sequence[Claim]) -> set[UUID]:
    """Take those keys that are new or have expired, each for its submission.

    Returns:
        The ids of the submissions that have their key now; the others' belong to earlier ones. Insert
        these submissions in the same transaction.
    """
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    taken: set[UUID] = set()
    for one in sorted(claims, key=lambda claim: (claim.tenant, claim.key)):  # no two wait for each other
        new = dialect.insert(IdempotencyKey).values(
            tenant=one.tenant,
            key=one.key,
            fingerprint=one.fingerprint,
            submission_id=one.submission_id,
            expires_at=db_now(KEPT_S),
        )
        statement = new.on_conflict_do_update(
            index_elements=[IdempotencyKey.tenant, IdempotencyKey.key],
            set_={
                "fingerprint": new.excluded.fingerprint,
                "submission_id": new.excluded.submission_id,
                "expires_at": new.excluded.expires_at,
            },
            where=IdempotencyKey.expires_at <= db_now(),
        ).returning(IdempotencyKey.submission_id)
        taken.update(connection.execute(statement).scalars())
    return taken


def find(connection: Connection, tenant: str, key: str) -> Claim | None:
    """Return what a key stands for now, or None for one that is new or has expired."""
    row = connection.execute(
        select(IdempotencyKey.fingerprint, IdempotencyKey.submission_id).where(
            IdempotencyKey.tenant == tenant,
            IdempotencyKey.key == key,
            IdempotencyKey.expires_at > db_now(),
        )
    ).first()
    return None if row is None else Claim(tenant, key, row.fingerprint, row.submission_id)


def delete_expired(connection: Connection, *, limit: int) -> None:
    """Forget up to ``limit`` keys that stand for nothing any more."""
    primary = tuple_(IdempotencyKey.tenant, IdempotencyKey.key)
    expired = (
        select(IdempotencyKey.tenant, IdempotencyKey.key)
        .where(IdempotencyKey.expires_at <= db_now())
        .limit(limit)
    )
    connection.execute(delete(IdempotencyKey).where(primary.in_(expired)))
