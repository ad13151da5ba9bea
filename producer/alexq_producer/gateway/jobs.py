"""``/v1/jobs``: hand in one image; see, cancel, redrive jobs."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated, Any, Final
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response

from alexq_producer.gateway.auth import Administering, Caller, Reading, Submitting
from alexq_producer.gateway.bodies import Body
from alexq_producer.gateway.core import Core
from alexq_producer.gateway.direct import JobOptions
from alexq_producer.gateway.entries import Carrier, ImageReference, Remote, one_of
from alexq_producer.gateway.headers import IdempotencyKey, Instant, WaitS, cursor_of_job, read_job_cursor
from alexq_producer.gateway.resources import JobPage
from alexq_producer.gateway.state import shared
from alexq_producer.gateway.waiting import waiting_for
from alexq_producer.gateway.wish import Accepted, Wish
from alexq_schema.db import jobs as job_table
from alexq_schema.db import pages, queries
from alexq_schema.db.deliveries import Notice
from alexq_schema.db.pages import JobFilter, Place
from alexq_schema.errors import ImageTooLargeError, JobNotFoundError, JobStateError, RequestError
from alexq_schema.job import Job, JobState
from alexq_schema.webhooks import Event

LOOK_AGAIN_S: Final = 1
"""``Retry-After`` of a job that is not finished."""

FRAME_BYTES: Final = 2**16
"""What a body may hold besides the image: multipart headers, JSON fields."""

router = APIRouter(tags=["jobs"])

_IMAGE_BODY: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "description": "The image itself, a file in a form, or JSON.",
        "content": {
            **{
                kind: {"schema": {"type": "string", "format": "binary"}}
                for kind in ("image/jpeg", "image/png", "image/webp", "image/gif", "application/octet-stream")
            },
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {"image": {"type": "string", "format": "binary"}},
                    "required": ["image"],
                }
            },
            "application/json": {"schema": ImageReference.model_json_schema()},
        },
    }
}

_ACCEPTED: Final[dict[int | str, dict[str, Any]]] = {
    HTTPStatus.ACCEPTED: {
        "description": "Accepted: it is on disk and will be done.",
        "model": Job,
        "headers": {
            "Location": {"schema": {"type": "string"}, "description": "Where the job is."},
            "Retry-After": {"schema": {"type": "integer"}, "description": "Seconds to wait before looking."},
        },
        "links": {
            name: {"operationId": name, "parameters": {"job_id": "$response.body#/job_id"}}
            for name in ("show_job", "cancel_job", "redrive_job")
        },
    }
}


@router.post(
    "/v1/jobs",
    response_model=Job,
    status_code=HTTPStatus.ACCEPTED,
    operation_id="submit_image",
    summary="Submit one image",
    responses={HTTPStatus.OK: {"description": "Finished in the time given by `Prefer: wait`.", "model": Job}}
    | _ACCEPTED,
    openapi_extra=_IMAGE_BODY,
)
async def submit_image(
    request: Request,
    caller: Submitting,
    wait_s: WaitS,
    options: Annotated[JobOptions, Query()],
    key: IdempotencyKey = None,
) -> Response:
    """Hand in one image: as the body, as a file in a form, or in JSON.

    202 with the job as it was accepted; 200 with the finished job where `Prefer: wait=N` was in time.
    """
    core, intake, keys = shared(request)
    notice = None if options.webhook is None else Notice(options.webhook, Event.JOB_FINISHED)
    wish = Wish(
        caller.tenant,
        options.lane,
        options.deadline_s,
        skips_rejected=False,
        key=key,
        notice=notice,
        model=options.model,
        options=options.how,
        queue=caller.queue,
        reuse=caller.reuse,
    )
    content_type = request.headers.get("content-type", "")
    limit = core.settings.max_image_bytes
    carrier = Carrier.of(content_type)
    max_bytes = {
        Carrier.BODY: limit,
        Carrier.FORM: limit + FRAME_BYTES,
        Carrier.JSON: limit * 4 // 3 + FRAME_BYTES,  # base64
    }[carrier]

    def too_large() -> ImageTooLargeError:
        name = options.source or "the image"
        return ImageTooLargeError(f"{name}: more than {limit:,} bytes are not taken (ALEXQ_MAX_IMAGE_BYTES)")

    def take() -> Accepted | Remote:
        entries = one_of(file, content_type, options.source, limit)
        entry = next(entries) if carrier is Carrier.JSON else None
        if isinstance(entry, Remote):
            return entry  # the pools for what is here are not for waiting
        return intake.take(entries if entry is None else [entry], wish, grant, max_images=1)

    with keys.hold(caller.tenant, key):
        async with intake.admit(wish) as grant:
            with await Body(request, core).whole(max_bytes, too_large) as file:
                accepted = await (core.call_large(take) if carrier is Carrier.JSON else core.call(take))
            if isinstance(accepted, Remote):
                accepted = await core.call_slow(intake.take, [accepted], wish, grant, max_images=1)
    [job] = accepted.jobs
    job = await _waited_for(core, job, wait_s)
    headers = _headers(job, wait_s)
    if accepted.is_replay:
        headers["Idempotent-Replayed"] = "true"
    status = HTTPStatus.OK if _is_over(job) else HTTPStatus.ACCEPTED
    return Response(job.model_dump_json(), status, headers, "application/json")


async def _waited_for(core: Core, job: Job, wait_s: float | None) -> Job:
    """Return the job, finished if it is within ``wait_s`` seconds."""
    assert job.job_id is not None
    if wait_s and not _is_over(job):
        async with waiting_for(core, job.submission_id or job.job_id, [job.job_id]) as waiter:
            async for finished in waiter.finished(wait_s):
                job = finished
    return job


def _headers(job: Job, wait_s: float | None) -> dict[str, str]:
    headers = {"Location": f"/v1/jobs/{job.job_id}"}
    if wait_s:
        headers["Preference-Applied"] = f"wait={wait_s:.0f}"
    if not _is_over(job):
        headers["Retry-After"] = str(LOOK_AGAIN_S)
    return headers


def _is_over(job: Job) -> bool:
    return isinstance(job.state, JobState) and job.state.is_terminal


@router.get("/v1/jobs/{job_id}", operation_id="show_job", summary="See a job")
async def show_job(job_id: UUID, request: Request, response: Response, caller: Reading, wait_s: WaitS) -> Job:
    """Return a job; with `Prefer: wait=N`, when it is finished, after N seconds at the latest."""
    core, *_ = shared(request)
    job = await core.call(_one, core, caller, job_id)
    job = await _waited_for(core, job, wait_s)
    response.headers.update(_headers(job, wait_s))
    return job


def _one(core: Core, caller: Caller, job_id: UUID) -> Job:
    with core.database.read() as connection:
        if pages.visible_jobs(connection, caller.tenant, [job_id]):
            return queries.by_id(connection, [job_id])[0]
    raise JobNotFoundError(f"there is no job {job_id}")


@router.get("/v1/jobs", operation_id="list_jobs", summary="List jobs")
async def list_jobs(
    request: Request,
    response: Response,
    caller: Reading,
    state: JobState | None = None,
    label: Annotated[str | None, Query(max_length=255, description="The best label.")] = None,
    model: Annotated[str | None, Query(max_length=129, description="`name/version`.")] = None,
    submission_id: UUID | None = None,
    created_after: Instant | None = None,
    created_before: Instant | None = None,
    cursor: Annotated[str | None, Query(description="`next_cursor` of the page before.")] = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
) -> JobPage:
    """List jobs that match every filter given, newest first, a page at a time.

    With an API key: those of the newest submission first, of each the last image first.
    """
    core, *_ = shared(request)
    after = read_job_cursor(caller.tenant, cursor)
    wanted = JobFilter(
        state,
        label,
        _model(model),
        submission_id,
        created_after,
        created_before,
    )

    def read() -> tuple[list[Job], Place | None]:
        with core.database.read() as connection:
            found = pages.jobs(connection, caller.tenant, wanted, after=after, limit=limit + 1)
            shown = queries.by_id(connection, [place.job_id for place in found[:limit]])
        return shown, found[limit - 1] if len(found) > limit else None

    shown, last = await core.call(read)
    following = None if last is None else cursor_of_job(caller.tenant, last)
    if following:
        url = request.url.include_query_params(cursor=following)
        response.headers["Link"] = f'<{url.path}?{url.query}>; rel="next"'
    return JobPage(jobs=shown, next_cursor=following)


def _model(text: str | None) -> tuple[str, str] | None:
    if text is None:
        return None
    name, slash, version = text.partition("/")
    if not slash:
        raise RequestError(f"model={text!r}: give name/version, as in `GET /v1/models`")
    return name, version


@router.delete("/v1/jobs/{job_id}", operation_id="cancel_job", summary="Cancel a job")
async def cancel_job(job_id: UUID, request: Request, caller: Submitting) -> Job:
    """Cancel a job and return it: a queued one at once, a running one's result is discarded.

    409 for one that has ended in another way.
    """
    core, *_ = shared(request)

    def cancel() -> Job:
        _one(core, caller, job_id)
        with core.database.begin() as connection:
            cancelled = job_table.cancel(connection, [job_id], actor=caller.actor)
        core.announcements.announce(cancelled)
        return _one(core, caller, job_id)

    job = await core.call(cancel)
    if job.state != JobState.CANCELLED:
        raise JobStateError(f"job {job_id} has ended already: it is {job.state}")
    return job


@router.post(
    "/v1/jobs/{job_id}/redrive",
    status_code=HTTPStatus.ACCEPTED,
    operation_id="redrive_job",
    summary="Queue a dead job again",
)
async def redrive_job(job_id: UUID, request: Request, response: Response, caller: Administering) -> Job:
    """Queue a dead job again, with fresh attempts. 409 for one that is not dead."""
    core, *_ = shared(request)

    def redrive() -> Job:
        job = _one(core, caller, job_id)
        with core.database.begin() as connection:
            if not job_table.redrive(connection, [job_id], actor=caller.actor):
                raise JobStateError(f"job {job_id} is {job.state}; only a dead job can be queued again")
        return _one(core, caller, job_id)

    job = await core.call(redrive)
    response.headers["Location"] = f"/v1/jobs/{job_id}"
    return job
