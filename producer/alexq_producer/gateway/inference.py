"""An inference of the Open Inference Protocol: accepted, waited for, and answered whole or with one error.

The protocol knows neither jobs nor partial answers; every image is a job all the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from io import BufferedReader
from typing import Annotated, BinaryIO, Final, cast
from uuid import UUID

from fastapi import Header, Request, Response

from alexq_producer.gateway.admission import Grant
from alexq_producer.gateway.auth import Caller, Submitting
from alexq_producer.gateway.bodies import Body, PieceReader
from alexq_producer.gateway.headers import MAX_WAIT_S, IdempotencyKey, WaitS
from alexq_producer.gateway.jobs import FRAME_BYTES
from alexq_producer.gateway.state import shared
from alexq_producer.gateway.tensors import InferRequest, InferResponse, outputs_of, read_request
from alexq_producer.gateway.waiting import waiting_for
from alexq_producer.gateway.wish import Accepted, Wish
from alexq_schema.errors import (
    FailedError,
    JobStateError,
    ModelNotReadyError,
    RequestTooLargeError,
    WaitTimeoutError,
    class_of,
)
from alexq_schema.job import Job, JobState
from alexq_schema.names import Lane

BINARY_HEADER: Final = "Inference-Header-Content-Length"
NAMED_IDS: Final = 10
"""Ids of unfinished jobs that an error names; the submission's id leads to all."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What an inference says besides its body."""

    caller: Caller
    wait_s: float
    key: str | None
    header_bytes: int | None
    """Length of the JSON, where binary data follows it."""


async def asked(
    caller: Submitting,
    wait_s: WaitS,
    key: IdempotencyKey = None,
    header_bytes: Annotated[
        int | None,
        Header(
            alias=BINARY_HEADER,
            ge=1,
            le=FRAME_BYTES,
            description="Bytes of the JSON at the body's beginning, where binary data follows it.",
        ),
    ] = None,
) -> Asked:
    """Return what an inference says besides its body."""
    return Asked(caller, MAX_WAIT_S if wait_s is None else wait_s, key, header_bytes)


async def answer(request: Request, asked: Asked, name: str, version: str | None = None) -> Response:
    """Return the answer to an inference request, when all its images are finished.

    Raises:
        ImageError: an image was refused, and nothing accepted, or could not be classified; names it.
        RequestError, RequestTooLargeError: the request makes no sense. Nothing was accepted.
        WaitTimeoutError: some are not finished in time; they go on.
        ModelNotReadyError: another model version did it, as workers are being replaced.
        FailedError: an image ended without a result through a fault of ours.
    """
    core, _, keys = shared(request)
    with keys.hold(asked.caller.tenant, asked.key):
        pinned = None if version is None else f"{name}/{version}"
        wanted, accepted = await _accept(request, asked, pinned)
    assert accepted.submission_id is not None  # nothing is skipped
    job_ids = [job.job_id for job in accepted.jobs if job.job_id]
    finished: dict[UUID | None, Job] = {}
    async with waiting_for(core, accepted.submission_id, job_ids) as waiter:
        async for job in waiter.finished(asked.wait_s):
            finished[job.job_id] = job
    if unfinished := [str(job_id) for job_id in job_ids if job_id not in finished]:
        raise _unfinished(accepted.submission_id, unfinished, len(job_ids))
    jobs = [finished[job_id] for job_id in job_ids]
    for job in jobs:
        _check_succeeded(job)
    model_version = _version_of(jobs, name, version)
    outputs, binaries = outputs_of(wanted, jobs)
    told = InferResponse(
        model_name=name,
        model_version=model_version,
        id=wanted.id,
        parameters={
            "submission_id": str(accepted.submission_id),
            "job_ids": ",".join(map(str, job_ids)),
        },
        outputs=outputs,
    )
    text = told.model_dump_json(exclude_none=True).encode()
    if not binaries:
        return Response(text, media_type="application/json")
    return Response(
        b"".join([text, *binaries]),
        media_type="application/octet-stream",
        headers={BINARY_HEADER: str(len(text))},
    )


async def _accept(request: Request, asked: Asked, model: str | None) -> tuple[InferRequest, Accepted]:
    """Let the request in as one image: how many there are is known when its JSON is."""
    _, intake, _ = shared(request)
    wish = Wish(
        asked.caller.tenant,
        Lane.INTERACTIVE,
        None,
        skips_rejected=False,
        key=asked.key,
        model=model,
        queue=asked.caller.queue,
        reuse=asked.caller.reuse,
    )
    async with intake.admit(wish) as grant:
        return await _take(request, asked, wish, grant)


async def _take(request: Request, asked: Asked, one: Wish, grant: Grant) -> tuple[InferRequest, Accepted]:
    """Take the request in: what may be as large as many images as it comes, the rest once it is there."""
    core, intake, _ = shared(request)
    settings, body = core.settings, Body(request, core)
    limit = settings.max_image_bytes

    def take(stream: BinaryIO) -> tuple[InferRequest, Accepted]:
        text = stream.read(-1 if asked.header_bytes is None else asked.header_bytes)
        wanted = read_request(text, has_more=asked.header_bytes is not None)
        wish = replace(one, options=wanted.parameters.options())
        if wanted.count > 1:
            wish = replace(wish, lane=Lane.BULK)
            grant.move(wish.at)
        images = wanted.images(stream, limit)
        return wanted, intake.take(images, wish, grant, max_images=settings.max_submission_images)

    def too_large() -> RequestTooLargeError:
        return RequestTooLargeError(
            f"binary data of {settings.max_submission_bytes:,} bytes at the most are taken "
            f"(ALEXQ_MAX_SUBMISSION_BYTES), JSON of {json_bytes:,} (ALEXQ_MAX_IMAGE_BYTES in base64)"
        )

    json_bytes = limit * 4 // 3 + FRAME_BYTES
    if asked.header_bytes is None:
        with await body.whole(json_bytes, too_large) as file:
            return await core.call_large(take, file)
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) <= limit:
        with await body.whole(limit, too_large) as file:
            return await core.call(take, file)
    with body.blocks(settings.max_submission_bytes, too_large) as blocks:
        return await core.call_slow(take, cast(BinaryIO, BufferedReader(PieceReader(blocks), 2**16)))


def _unfinished(submission_id: UUID, unfinished: Sequence[str], total: int) -> WaitTimeoutError:
    named = ", ".join(unfinished[:NAMED_IDS])
    more = f" and {len(unfinished) - NAMED_IDS:,} more" if len(unfinished) > NAMED_IDS else ""
    return WaitTimeoutError(
        f"{len(unfinished):,} of {total:,} jobs are not finished and go on: {named}{more}; see "
        f"`GET /v1/submissions/{submission_id}/results`, or send the same request with the same "
        "Idempotency-Key, if it had one"
    )


def _check_succeeded(job: Job) -> None:
    if job.state is JobState.SUCCEEDED:
        return
    name = f"{job.source} (job {job.job_id})"
    if job.error is None:
        raise JobStateError(f"{name} is {job.state}")
    raise class_of(job.error.code, FailedError)(f"{name}: {job.error.detail}")


def _version_of(jobs: Sequence[Job], name: str, version: str | None) -> str:
    """Return the model version that did all of these jobs.

    Raises:
        ModelNotReadyError: it is not the one asked for, or there are several.
    """
    done_by = {(job.model.name, job.model.version) for job in jobs if job.model is not None}
    [(its_name, its_version), *others] = sorted(done_by)
    if others or its_name != name or version not in (None, its_version):
        told = ", ".join("/".join(one) for one in sorted(done_by))
        raise ModelNotReadyError(
            f"workers are being replaced: the images were classified by {told}; send the request again"
        )
    return its_version
