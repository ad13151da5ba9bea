"""Request headers and parameters that several operations take."""

from __future__ import annotations

import re
from typing import Annotated, Final
from uuid import UUID

from fastapi import Depends, Header, Query
from pydantic import AwareDatetime, BeforeValidator

from alexq_schema.db.pages import Place
from alexq_schema.errors import RequestError

MAX_WAIT_S: Final = 60.0

IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        description="1 to 255 printable ASCII characters of your choice, kept for 24 hours: the same key "
        "with the same images gives the same jobs, however often it is sent.",
        examples=["3f1c6e0a-order-4711"],
    ),
]


async def preferred_wait_s(
    prefer: Annotated[
        str | None,
        Header(description="`wait=N`: answer when it is finished, after N seconds at the latest (RFC 7240)."),
    ] = None,
) -> float | None:
    """Return how long the client prefers to wait, in seconds up to ``MAX_WAIT_S``; None: it does not say.

    What makes no sense is ignored, as RFC 7240 asks. A coroutine, though it waits for nothing: FastAPI
    would run a plain function in a thread.
    """
    for preference in re.split("[,;]", prefer or ""):
        name, _, value = preference.partition("=")
        if name.strip().lower() == "wait" and re.fullmatch(r'\s*"?\d{1,9}"?\s*', value):
            return min(MAX_WAIT_S, float(value.strip().strip('"')))
    return None


WaitS = Annotated[float | None, Depends(preferred_wait_s)]


WebhookId = Annotated[
    UUID | None,
    Query(description="A webhook of yours that is told, once, when all has ended."),
]


def _written_out(value: object) -> object:
    if not isinstance(value, str) or not re.match(r"\d{4}-\d\d-\d\dT", value):
        raise ValueError("give date, time and zone, as in 2026-01-31T12:00:00Z")
    return value


Instant = Annotated[AwareDatetime, BeforeValidator(_written_out)]
"""A time of day in RFC 3339; pydantic alone would take bare numbers too."""


def cursor_of(last_id: UUID) -> str:
    """Return the cursor of the page that follows the row ``last_id``."""
    return last_id.hex


def read_cursor(cursor: str | None) -> UUID | None:
    """Return the row that a page follows.

    Raises:
        RequestError: no page has this cursor.
    """
    if cursor is None:
        return None
    if not re.fullmatch("[0-9a-f]{32}", cursor):
        raise _no_cursor(cursor)
    return UUID(cursor)


def cursor_of_job(tenant: str | None, place: Place) -> str:
    """Return the cursor of the page that follows a job in this tenant's list."""
    in_submission = "" if tenant is None or place.submission_id is None else place.submission_id.hex
    return in_submission + place.job_id.hex


def read_job_cursor(tenant: str | None, cursor: str | None) -> Place | None:
    """Return the job that a page of this tenant's list follows.

    Raises:
        RequestError: no page has this cursor.
    """
    if cursor is None:
        return None
    if not re.fullmatch("[0-9a-f]{32}" if tenant is None else "[0-9a-f]{64}", cursor):
        raise _no_cursor(cursor)
    return Place(None if tenant is None else UUID(cursor[:32]), UUID(cursor[-32:]))


def _no_cursor(cursor: str) -> RequestError:
    return RequestError(f"cursor={cursor[:80]!r}: give a next_cursor, as it came")
