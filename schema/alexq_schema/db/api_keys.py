"""API keys of the HTTP gateway: whose they are and what they allow. Only their hashes are stored."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import Connection, Index, Row, String, false, insert, select, update
from sqlalchemy.orm import Mapped, mapped_column

from alexq_schema.db.clock import db_now
from alexq_schema.db.tables import Base
from alexq_schema.ids import new_id
from alexq_schema.keys import Scope
from alexq_schema.names import DEFAULT_QUEUE


class ApiKey(Base):
    """One API key."""

    __tablename__ = "api_keys"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    tenant: Mapped[str] = mapped_column(String(64))
    name: Mapped[str] = mapped_column(String(255))
    """What it is for, for people."""
    scopes: Mapped[str] = mapped_column(String(64))
    """Names of :class:`alexq_schema.keys.Scope`, separated by spaces."""
    key_sha256: Mapped[str] = mapped_column(String(64))
    queue: Mapped[str] = mapped_column(String(32), server_default="")
    """Where the jobs go that are handed in with it."""
    created_at: Mapped[datetime]
    revoked_at: Mapped[datetime | None]
    reuse: Mapped[bool] = mapped_column(server_default=false())
    """Whether past results may answer all that is handed in with it."""

    __table_args__ = (Index("ix_api_keys_sha256", "key_sha256", unique=True),)


@dataclass(frozen=True, slots=True)
class KnownKey:
    """A key as everyone may see it; the secret itself is nowhere."""

    id: UUID
    tenant: str
    name: str
    scopes: frozenset[Scope]
    created_at: datetime
    revoked_at: datetime | None
    queue: str = DEFAULT_QUEUE
    reuse: bool = False


def add(
    connection: Connection,
    *,
    tenant: str,
    name: str,
    scopes: Collection[Scope],
    sha256: str,
    queue: str = DEFAULT_QUEUE,
    reuse: bool = False,
) -> UUID:
    """Store a new key by its hash and return its id."""
    key_id = new_id()
    connection.execute(
        insert(ApiKey).values(
            id=key_id,
            tenant=tenant,
            name=name,
            scopes=" ".join(sorted(scopes)),
            key_sha256=sha256,
            queue=queue,
            created_at=db_now(),
            reuse=reuse,
        )
    )
    return key_id


def everyone(connection: Connection) -> list[KnownKey]:
    """Return every key, revoked ones too, oldest first."""
    return [_known(row) for row in connection.execute(select(ApiKey.__table__).order_by(ApiKey.id))]


def any_was_made(connection: Connection) -> bool:
    """Return whether a key was ever made; also when all are revoked by now."""
    return connection.execute(select(ApiKey.id).limit(1)).first() is not None


def valid(connection: Connection, sha256: str) -> KnownKey | None:
    """Return the key with this hash, or None where there is none that is not revoked."""
    statement = select(ApiKey.__table__).where(ApiKey.key_sha256 == sha256, ApiKey.revoked_at.is_(None))
    row = connection.execute(statement).first()
    return None if row is None else _known(row)


def revoke(connection: Connection, key_id: UUID) -> bool:
    """End a key; return whether there is one of this id. Again is allowed and changes nothing."""
    revoked = update(ApiKey).where(ApiKey.id == key_id, ApiKey.revoked_at.is_(None))
    connection.execute(revoked.values(revoked_at=db_now()))
    return connection.execute(select(ApiKey.id).where(ApiKey.id == key_id)).first() is not None


def _known(row: Row[tuple[object, ...]]) -> KnownKey:
    return KnownKey(
        id=row.id,
        tenant=row.tenant,
        name=row.name,
        scopes=frozenset(Scope(scope) for scope in row.scopes.split()),
        created_at=row.created_at,
        revoked_at=row.revoked_at,
        queue=row.queue,
        reuse=row.reuse,
    )
