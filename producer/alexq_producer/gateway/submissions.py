"""``/v1/submissions``: hand in many images; see how far they are, their results, cancel them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from http import HTTPStatus
from typing import Annotated, Any, Final, Literal
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response
from starlette.responses import StreamingResponse

from alexq_producer.gateway.auth import Caller, Reading, Submitting
from alexq_producer.gateway.bodies import Body
from alexq_producer.gateway.classifying import How, PinnedModel
from alexq_producer.gateway.core import Core
from alexq_producer.gateway.direct import Deadline
from alexq_producer.gateway.entries import ImageReference, many_of
from alexq_producer.gateway.headers import IdempotencyKey, WebhookId, cursor_of, read_cursor
from alexq_producer.gateway.jobs import LOOK_AGAIN_S
from alexq_producer.gateway.resources import AcceptedSubmission, RejectedInput, Submission, SubmissionPage
from alexq_producer.gateway.state import shared
from alexq_producer.gateway.waiting import waiting_for
from alexq_producer.gateway.wish import Accepted, Wish
from alexq_schema.db import jobs as job_table
from alexq_schema.db import pages, queries
from alexq_schema.db.deliveries import Notice
from alexq_schema.errors import JobNotFoundError, RequestTooLargeError
from alexq_schema.names import Lane
from alexq_schema.webhooks import Event

MAX_STREAM_S: Final = 3600.0
"""How long a stream of results stays open, at most."""

NDJSON: Final = "application/x-ndjson"

router = APIRouter(tags=["submissions"])

_IMAGES_BODY: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "description": "Files in a form, an archive of files, or one JSON object a line.",
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {
                        "images": {"type": "array", "items": {"type": "string", "format": "binary"}}
                    },
                }
            },
            "application/x-tar": {"schema": {"type": "string", "format": "binary"}},
            "application/zip": {"schema": {"type": "string", "format": "binary"}},
            NDJSON: {"schema": ImageReference.model_json_schema()},
        },
    }
}


@router.post(
    "/v1/submissions",
    status_code=HTTPStatus.ACCEPTED,
    operation_id="submit_images",
    summary="Submit many images",
    responses={
        HTTPStatus.OK: {
            "description": "Every image was refused, and is listed.",
            "model": AcceptedSubmission,
        },
        HTTPStatus.ACCEPTED: {
            "description": "Accepted: they are on disk and will be done.",
            "headers": {
                "Location": {"schema": {"type": "string"}, "description": "Where the submission is."},
                "Retry-After": {
                    "schema": {"type": "integer"},
                    "description": "Seconds to wait before looking.",
                },
            },
            "links": {
                name: {"operationId": name, "parameters": {"submission_id": "$response.body#/submission_id"}}
                for name in ("show_submission", "stream_results", "cancel_submission")
            },
        },
    },
    openapi_extra=_IMAGES_BODY,
)
async def submit_images(
    request: Request,
    response: Response,
    caller: Submitting,
    key: IdempotencyKey = None,
    rejected: Annotated[
        Literal["raise", "skip"],
        Query(description="What one image that is refused does: `raise` the whole request, or `skip` it."),
    ] = "raise",
    deadline_s: Deadline = None,
    lane: Lane = Lane.BULK,
    webhook: WebhookId = None,
    model: PinnedModel = None,
    options: How = None,
) -> AcceptedSubmission:
    """Hand in up to 10,000 images in one request: as files of a form, a tar or ZIP archive, or lines of JSON.

    The body is read as it comes. All images are accepted or, when one is refused, none; with
    `rejected=skip`, those that are refused are listed and the others accepted.
    """
    core, intake, keys = shared(request)
    notice = None if webhook is None else Notice(webhook, Event.SUBMISSION_FINISHED)
    wish = Wish(
        caller.tenant,
        lane,
        deadline_s,
        skips_rejected=rejected == "skip",
        key=key,
        notice=notice,
        model=model,
        options=options,
        queue=caller.queue,
        reuse=caller.reuse,
    )
    settings = core.settings

    def too_large() -> RequestTooLargeError:
        return RequestTooLargeError(
            f"the body has more than {settings.max_submission_bytes:,} bytes (ALEXQ_MAX_SUBMISSION_BYTES): "
            "send it in parts"
        )

    def take(blocks: Iterator[bytes]) -> Accepted:
        entries = many_of(
            blocks,
            request.headers.get("content-type", ""),
            max_image_bytes=settings.max_image_bytes,
            max_bytes=settings.max_submission_bytes,
        )
        return intake.take(entries, wish, grant, max_images=settings.max_submission_images)

    with keys.hold(caller.tenant, key):
        async with intake.admit(wish) as grant:
            with Body(request, core).blocks(settings.max_submission_bytes, too_large) as blocks:
                accepted = await core.call_slow(take, blocks)
    if accepted.is_replay:
        response.headers["Idempotent-Replayed"] = "true"
    if accepted.submission_id is None:
        response.status_code = HTTPStatus.OK
    else:
        response.headers["Location"] = f"/v1/submissions/{accepted.submission_id}"
        response.headers["Retry-After"] = str(LOOK_AGAIN_S)
    return AcceptedSubmission(
        submission_id=accepted.submission_id,
        total=len(accepted.jobs),
        job_ids=[job.job_id for job in accepted.jobs if job.job_id],
        rejected=[RejectedInput.of(rejection) for rejection in accepted.rejected],
    )


@router.get("/v1/submissions", operation_id="list_submissions", summary="List submissions")
async def list_submissions(
    request: Request,
    response: Response,
    caller: Reading,
    cursor: Annotated[str | None, Query(description="`next_cursor` of the page before.")] = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
) -> SubmissionPage:
    """List submissions, newest first, a page at a time."""
    core, *_ = shared(request)
    after = read_cursor(cursor)

    def read() -> list[Submission]:
        with core.database.read() as connection:
            found = pages.submissions(connection, caller.tenant, after=after, limit=limit + 1)
        return [Submission.of(handed, tally) for handed, tally in found]

    found = await core.call(read)
    shown = found[:limit]
    following = cursor_of(shown[-1].submission_id) if len(found) > limit else None
    if following:
        url = request.url.include_query_params(cursor=following)
        response.headers["Link"] = f'<{url.path}?{url.query}>; rel="next"'
    return SubmissionPage(submissions=shown, next_cursor=following)


@router.get(
    "/v1/submissions/{submission_id}", operation_id="show_submission", summary="See how far a submission is"
)
async def show_submission(submission_id: UUID, request: Request, caller: Reading) -> Submission:
    """Return the counts of jobs by state, the rate, and when the rest will be done."""
    core, *_ = shared(request)
    return await core.call(read_submission, core, caller, submission_id)


def read_submission(core: Core, caller: Caller, submission_id: UUID) -> Submission:
    """Return how far a submission is.

    Raises:
        JobNotFoundError: there is none, or it is another tenant's.
    """
    with core.database.read() as connection:
        found = pages.submission(connection, caller.tenant, submission_id)
    if found is None:
        raise JobNotFoundError(f"there is no submission {submission_id}")
    return Submission.of(*found)


def _job_ids(core: Core, caller: Caller, submission_id: UUID) -> list[UUID]:
    read_submission(core, caller, submission_id)
    with core.database.read() as connection:
        return list(queries.submission_places(connection, submission_id))


@router.get(
    "/v1/submissions/{submission_id}/results",
    operation_id="stream_results",
    summary="Stream results",
    response_class=StreamingResponse,
    responses={
        HTTPStatus.OK: {
            "description": "One job a line, in the order in which they finish.",
            "content": {NDJSON: {"schema": {"$ref": "#/components/schemas/Job"}}},
        }
    },
)
async def stream_results(
    submission_id: UUID,
    request: Request,
    caller: Reading,
    wait_s: Annotated[
        float, Query(ge=0, le=MAX_STREAM_S, description="Seconds to wait for jobs that are unfinished.")
    ] = 60.0,
) -> StreamingResponse:
    """Stream finished jobs, one JSON object a line, in the order in which they finish.

    The stream ends when all jobs are finished, or after `wait_s` seconds; another call begins anew.
    """
    core, *_ = shared(request)
    job_ids = await core.call(_job_ids, core, caller, submission_id)
    stack = AsyncExitStack()
    # Before the first line: whatever can fail still has a status of its own.
    waiter = await stack.enter_async_context(waiting_for(core, submission_id, job_ids))

    async def lines() -> AsyncIterator[str]:
        async with stack:
            async for job in waiter.finished(wait_s):
                yield job.model_dump_json() + "\n"

    return StreamingResponse(lines(), media_type=NDJSON)


@router.delete(
    "/v1/submissions/{submission_id}", operation_id="cancel_submission", summary="Cancel a submission"
)
async def cancel_submission(submission_id: UUID, request: Request, caller: Submitting) -> Submission:
    """Cancel every job of a submission that is unfinished, and return how it stands."""
    core, *_ = shared(request)

    def cancel() -> Submission:
        job_ids = _job_ids(core, caller, submission_id)
        with core.database.begin() as connection:
            cancelled = job_table.cancel(connection, job_ids, actor=caller.actor)
        core.announcements.announce(cancelled)
        return read_submission(core, caller, submission_id)

    return await core.call(cancel)
