"""Webhooks: where a tenant wants to be told, and with which secrets that is signed.

The secrets are stored as they are: an HMAC needs them. ``tenant`` None stands for a gateway without API keys:
everything. What is to be told is in :mod:`alexq_schema.db.deliveries`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import (
    ColumnElement,
    Connection,
    Index,
    String,
    and_,
    case,
    delete,
    insert,
    select,
    true,
    update,
)
from sqlalchemy.orm import Mapped, mapped_column

from alexq_schema.db.clock import db_now
from alexq_schema.db.tables import Base
from alexq_schema.ids import new_id
from alexq_schema.text import storable
from alexq_schema.webhooks import ROTATION_S, new_secret

MAX_URL_LENGTH = 2048


class Webhook(Base):
    """One place to tell."""

    __tablename__ = "webhooks"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    tenant: Mapped[str | None] = mapped_column(String(64))
    url: Mapped[str] = mapped_column(String(MAX_URL_LENGTH))
    secret: Mapped[str] = mapped_column(String(128))
    previous_secret: Mapped[str | None] = mapped_column(String(128))
    """The one before the last rotation; signs too, until ``previous_until``."""
    previous_until: Mapped[datetime | None]
    created_at: Mapped[datetime]
    disabled_at: Mapped[datetime | None]
    """Since then nothing is delivered to it."""
    disabled_reason: Mapped[str | None] = mapped_column(String(255))

    __table_args__ = (Index("ix_webhooks_tenant", "tenant", "id"),)


@dataclass(frozen=True, slots=True)
class KnownWebhook:
    """A webhook as its tenant may see it; without its secrets."""

    id: UUID
    tenant: str | None
    url: str
    created_at: datetime
    disabled_at: datetime | None
    disabled_reason: str | None


@dataclass(frozen=True, slots=True)
class Target:
    """Where to deliver, and with what to sign."""

    url: str
    secrets: Sequence[str]
    """The newest first; two for a day after a rotation."""


_KNOWN = select(
    Webhook.id,
    Webhook.tenant,
    Webhook.url,
    Webhook.created_at,
    Webhook.disabled_at,
    Webhook.disabled_reason,
)


def is_theirs(tenant: str | None, webhook_id: UUID) -> ColumnElement[bool]:
    """Return the condition on a webhook that it is this one, and this tenant's."""
    owned = true() if tenant is None else Webhook.tenant == tenant
    return and_(Webhook.id == webhook_id, owned)


def add(connection: Connection, *, tenant: str | None, url: str) -> tuple[UUID, str]:
    """Store a new webhook and return its id and its secret."""
    webhook_id, secret = new_id(), new_secret()
    connection.execute(
        insert(Webhook).values(id=webhook_id, tenant=tenant, url=url, secret=secret, created_at=db_now())
    )
    return webhook_id, secret


def page(
    connection: Connection, tenant: str | None, *, after: UUID | None, limit: int | None
) -> list[KnownWebhook]:
    """Return webhooks, newest first; of the page that follows the webhook ``after``.

    All of them where ``limit`` is None.
    """
    statement = _KNOWN if tenant is None else _KNOWN.where(Webhook.tenant == tenant)
    if after is not None:
        statement = statement.where(Webhook.id < after)
    rows = connection.execute(statement.order_by(Webhook.id.desc()).limit(limit))
    return [KnownWebhook(*row) for row in rows]


def find(connection: Connection, tenant: str | None, webhook_id: UUID) -> KnownWebhook | None:
    """Return a webhook of this tenant, or None."""
    row = connection.execute(_KNOWN.where(is_theirs(tenant, webhook_id))).first()
    return None if row is None else KnownWebhook(*row)


def remove(connection: Connection, tenant: str | None, webhook_id: UUID) -> bool:
    """Delete a webhook with its deliveries; return whether it was there."""
    return connection.execute(delete(Webhook).where(is_theirs(tenant, webhook_id))).rowcount == 1


def rotate(connection: Connection, tenant: str | None, webhook_id: UUID) -> str | None:
    """Give a webhook a new secret and return it, or None where there is no such webhook.

    The one before signs beside it for ``ROTATION_S`` more; one that was older than that signs no more.
    """
    secret = new_secret()
    statement = update(Webhook).where(is_theirs(tenant, webhook_id))
    changed = connection.execute(
        statement.values(secret=secret, previous_secret=Webhook.secret, previous_until=db_now(ROTATION_S))
    )
    return secret if changed.rowcount else None


def disable(connection: Connection, webhook_id: UUID, reason: str) -> None:
    """Deliver nothing more to a webhook; what is pending stays."""
    statement = update(Webhook).where(Webhook.id == webhook_id, Webhook.disabled_at.is_(None))
    connection.execute(statement.values(disabled_at=db_now(), disabled_reason=storable(reason)[:255]))


def enable(connection: Connection, tenant: str | None, webhook_id: UUID) -> bool:
    """Let deliveries go to a webhook again; return whether there is such a one.

    What is pending is made due by :func:`alexq_schema.db.deliveries.hurry`.
    """
    statement = update(Webhook).where(is_theirs(tenant, webhook_id))
    return connection.execute(statement.values(disabled_at=None, disabled_reason=None)).rowcount == 1


def target(connection: Connection, webhook_id: UUID) -> Target | None:
    """Return where a webhook's deliveries go, or None where it was deleted."""
    previous = case((Webhook.previous_until > db_now(), Webhook.previous_secret)).label("previous")
    statement = select(Webhook.url, Webhook.secret, previous).where(Webhook.id == webhook_id)
    row = connection.execute(statement).first()
    if row is None:
        return None
    return Target(row.url, [secret for secret in (row.secret, row.previous) if secret is not None])
