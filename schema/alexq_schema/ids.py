"""Ids: UUIDv7 (RFC 9562), so that ids sort by time and index pages stay warm."""

from __future__ import annotations

from uuid import UUID

import uuid_utils.compat


def new_id() -> UUID:
    """Return a new UUIDv7; later ids of one process are greater."""
    return uuid_utils.compat.uuid7()
