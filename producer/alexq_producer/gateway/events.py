"""``/v1/submissions/{id}/events``: a submission's results and progress as server-sent events.

An event's id names every job that has been sent up to it, as a bitmap of positions: what a client that comes
back has not had is sent, however transactions overlapped and whichever gateway answers.
"""

from __future__ import annotations

import base64
import binascii
import time
import zlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from http import HTTPStatus
from typing import Annotated, Any, Final, Self
from uuid import UUID

from fastapi import APIRouter, Depends, Header, Query, Request, Response
from fastapi.sse import EventSourceResponse, ServerSentEvent

from alexq_producer.gateway.auth import Caller, Reading
from alexq_producer.gateway.core import Core
from alexq_producer.gateway.resources import Submission
from alexq_producer.gateway.state import shared
from alexq_producer.gateway.submissions import MAX_STREAM_S, read_submission
from alexq_producer.gateway.waiting import Waiter, waiting_for
from alexq_producer.submission import SILENCE_S
from alexq_schema.db import queries
from alexq_schema.errors import RequestError, UnavailableError

RETRY_MS: Final = 1000
"""How long a client waits before it comes back."""

PROGRESS_S: Final = 1.0
"""The least time between two ``progress`` events; up to ``SILENCE_S`` while nothing changes."""

MAX_ID_CHARS: Final = 4096
"""Proxies take headers of this length. Events that would need a longer id have none, so that a client that
comes back gets them again; only submissions of more than 24,000 images that finish at random reach it."""

ENDED: Final = "end"
"""The id of the last event."""

router = APIRouter(tags=["submissions"])


class Sent:
    """The jobs that a client has been sent."""

    def __init__(self, total: int) -> None:
        """Start with none of ``total`` jobs."""
        self._bytes = (total + 7) // 8
        self._bits = 0

    @classmethod
    def read(cls, event_id: str, total: int) -> Self:
        """Return what the id of an event of a submission of ``total`` jobs says.

        Raises:
            RequestError: no such event has this id.
        """
        sent = cls(total)
        unpacking = zlib.decompressobj()
        try:
            packed = base64.b64decode(event_id.encode("ascii"), b"-_", validate=True)
            bitmap = unpacking.decompress(packed, sent._bytes + 1)
        except (zlib.error, binascii.Error, UnicodeEncodeError):
            bitmap = b""
        sent._bits = int.from_bytes(bitmap, "little")
        is_whole = unpacking.eof and not unpacking.unused_data and len(bitmap) == sent._bytes
        if not is_whole or sent._bits >> total:
            raise RequestError(
                f"Last-Event-ID={event_id[:80]!r}: give the id of an event of this submission, as it came"
            )
        return sent

    def __contains__(self, position: int) -> bool:
        return bool(self._bits >> position & 1)

    def add(self, position: int) -> None:
        """Note that the job at this place in the submission is being sent."""
        self._bits |= 1 << position

    def event_id(self) -> str | None:
        """Return the id that tells all this, or None where it would be too long."""
        packing = zlib.compressobj(1, wbits=10, memLevel=4)  # 5 µs; the default takes 70
        packed = packing.compress(self._bits.to_bytes(self._bytes, "little")) + packing.flush()
        event_id = base64.urlsafe_b64encode(packed).decode()
        return event_id if len(event_id) <= MAX_ID_CHARS else None


@dataclass(frozen=True, slots=True)
class Following:
    """One client and what it follows."""

    core: Core
    caller: Caller
    submission_id: UUID
    places: dict[UUID, int]
    """Positions of the jobs."""
    sent: Sent
    waiter: Waiter

    async def submission(self) -> Submission:
        """Return how far the submission is."""
        return await self.core.call(read_submission, self.core, self.caller, self.submission_id)

    async def events(self, wait_s: float) -> AsyncIterator[ServerSentEvent]:
        """Yield events until every job was sent, ``wait_s`` is over or the gateway stops.

        Raises:
            UnavailableError: the database does not answer.
        """
        shown = await self.submission()
        yield ServerSentEvent(event="progress", raw_data=shown.model_dump_json(), retry=RETRY_MS)
        looked_at, pause_s = time.monotonic(), PROGRESS_S
        async for jobs in self.waiter.pieces(wait_s, PROGRESS_S):
            for job in jobs:
                assert job.job_id is not None
                self.sent.add(self.places[job.job_id])
                yield ServerSentEvent(event="job", raw_data=job.model_dump_json(), id=self.sent.event_id())
            if jobs:
                pause_s = PROGRESS_S
            if time.monotonic() - looked_at < pause_s:
                continue
            now = await self.submission()
            looked_at = time.monotonic()
            if now.counts == shown.counts:
                pause_s = min(2 * pause_s, SILENCE_S)
            else:
                pause_s, shown = PROGRESS_S, now
                yield ServerSentEvent(event="progress", raw_data=now.model_dump_json())
        if self.waiter.is_over:
            final = await self.submission()
            yield ServerSentEvent(event="end", raw_data=final.model_dump_json(), id=ENDED)


async def following(
    submission_id: UUID,
    request: Request,
    response: Response,
    caller: Reading,
    last_event_id: Annotated[
        str | None,
        Header(
            alias="Last-Event-ID",
            description="The id of the last event that came: the stream goes on after it.",
        ),
    ] = None,
) -> AsyncIterator[Following | None]:
    """Prepare a stream: whatever can fail still has a status of its own. None: nothing is left to send."""
    core, *_ = shared(request)

    def read() -> tuple[int, dict[UUID, int]]:
        total = read_submission(core, caller, submission_id).total
        with core.database.read() as connection:
            return total, queries.submission_places(connection, submission_id)

    total, places = await core.call(read)
    response.headers["Cache-Control"] = "no-store"  # beside FastAPI's own no-cache
    if last_event_id == ENDED:
        response.status_code = HTTPStatus.NO_CONTENT
        yield None
        return
    sent = Sent.read(last_event_id, total) if last_event_id else Sent(total)
    unsent = [job_id for job_id, position in places.items() if position not in sent]
    async with waiting_for(core, submission_id, unsent) as waiter:
        yield Following(core, caller, submission_id, places, sent, waiter)


_EXAMPLE: Final = """\
event: progress
data: {"submission_id":"01890a5d-ac96-774b-bcce-b302099a8057","total":2,"counts":{"queued":2}, …}
retry: 1000

event: job
data: {"job_id":"01890a5d-ac96-774b-bcce-b3020a1c9f3e","source":"cat.jpg","state":"succeeded", …}
id: eAFjBAAAAgAC

event: end
data: {"submission_id":"01890a5d-ac96-774b-bcce-b302099a8057","total":2,"counts":{"succeeded":2}, …}
id: end

"""

_RESPONSES: Final[dict[int | str, dict[str, Any]]] = {
    HTTPStatus.OK: {
        "description": "`progress` and `job` events, and `end`, after which the client closes.",
        "content": {"text/event-stream": {"example": _EXAMPLE}},
    },
    HTTPStatus.NO_CONTENT: {"description": "`Last-Event-ID: end`: all was sent; do not come back."},
}


@router.get(
    "/v1/submissions/{submission_id}/events",
    operation_id="follow_submission",
    summary="Follow a submission by server-sent events",
    response_class=EventSourceResponse,
    responses=_RESPONSES,
)
async def follow_submission(
    followed: Annotated[Following | None, Depends(following)],
    wait_s: Annotated[
        float, Query(ge=0, le=MAX_STREAM_S, description="Seconds after which the stream ends all the same.")
    ] = MAX_STREAM_S,
) -> AsyncIterator[ServerSentEvent]:
    """Stream `job` events, each with a finished job, as they finish; between them `progress`, the counts.

    When all jobs are finished comes `end`, with the final counts. A stream may end without it, after `wait_s`
    seconds or with the gateway or the database. The same request with the last event's id as `Last-Event-ID`,
    as browsers' `EventSource` sends it, then gives every job that has not come, and no other.
    """
    if followed is None:
        return
    try:
        async for event in followed.events(wait_s):
            yield event
    except UnavailableError:
        return  # the client comes back and is told then
