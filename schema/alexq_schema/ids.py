"""Ids: UUIDv7 (RFC 9562), so that ids sort by time and index pages stay warm."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime
from uuid import UUID

import uuid_utils.compat

TAG_BITS = 32
"""The last bits of a submission's id: the same for all of one producer, so that it has one channel."""

_TAG_MASK = (1 << TAG_BITS) - 1


def new_id() -> UUID:
    """Return a new UUIDv7; later ids of one process are greater."""
    return uuid_utils.compat.uuid7()


def first_id_at(time: datetime) -> UUID:
    """Return the id before which every UUIDv7 made earlier than ``time`` sorts, to the millisecond."""
    return UUID(int=int(time.timestamp() * 1000) << 80)


def new_tag() -> int:
    """Return a random tag for a new producer."""
    return secrets.randbits(TAG_BITS)


def tagged_id(tag: int) -> UUID:
    """Return a new UUIDv7 that ends in ``tag``: unique by its other 42 random bits, within a millisecond."""
    return UUID(int=new_id().int & ~_TAG_MASK | tag)


def tag_of(id_: UUID) -> int:
    """Return the tag that a submission's id ends in."""
    return id_.int & _TAG_MASK


def time_of(id_: UUID) -> datetime | None:
    """Return when a UUIDv7 was made, to the millisecond; None for another id."""
    return datetime.fromtimestamp((id_.int >> 80) / 1000, UTC) if id_.version == 7 else None
