"""Text as every database can store it."""

from __future__ import annotations


def storable(text: str) -> str:
    """Return ``text`` without what PostgreSQL cannot store: NUL, and file names that are not UTF-8."""
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace").decode()
