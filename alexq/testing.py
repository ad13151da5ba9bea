"""A gateway without a network, for the tests of services that use :class:`alexq.Client`.

    from alexq import Client
    from alexq.testing import FakeGateway

    gateway = FakeGateway(label="tabby")
    with Client("http://alexq.test", transport=gateway) as client:
        assert client.classify(b"\\xff\\xd8\\xff…").label == "tabby"

It speaks the gateway's HTTP and passes the same conformance suite. Its jobs finish at once, unless it is
made with ``finishes=False``; then :meth:`FakeGateway.finish` ends them. Any webhook that a submission names
is taken, and nobody is told: see ``requests``.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any, Final
from uuid import UUID

import httpx2

from alexq_producer.packing import TAR, unpacked_line, unpacked_tar
from alexq_schema.errors import (
    AlexqError,
    EngineError,
    IdempotencyKeyReusedError,
    ImageError,
    ImageTooLargeError,
    ImageTypeError,
    JobNotFoundError,
    JobStateError,
    RouteNotFoundError,
    UsageError,
)
from alexq_schema.ids import new_id
from alexq_schema.images import check_image
from alexq_schema.job import Job, JobError, JobState, ModelRef, Prediction, Timings

MAX_IMAGE_BYTES: Final = 20 * 2**20

Answer = Callable[[str, bytes], str | AlexqError]
"""Given an image's name and its bytes, or its URL's: its label, or the error that its job ends with."""

_STATUS: Final[tuple[tuple[type[AlexqError], HTTPStatus], ...]] = (
    (JobNotFoundError, HTTPStatus.NOT_FOUND),
    (RouteNotFoundError, HTTPStatus.NOT_FOUND),
    (JobStateError, HTTPStatus.CONFLICT),
    (ImageTooLargeError, HTTPStatus.REQUEST_ENTITY_TOO_LARGE),
    (ImageTypeError, HTTPStatus.UNSUPPORTED_MEDIA_TYPE),
)


class FakeGateway(httpx2.BaseTransport, httpx2.AsyncBaseTransport):
    """The transport of a client that asks nobody; one thread at a time."""

    def __init__(self, *, label: str = "tabby", answer: Answer | None = None, finishes: bool = True) -> None:
        """Prepare.

        Args:
            label: of every image.
            answer: instead: what becomes of each image.
            finishes: whether jobs finish at once.
        """
        self._answer = answer or (lambda _name, _data: label)
        self._finishes = finishes
        self._jobs: dict[UUID, Job] = {}
        self._images: dict[UUID, bytes] = {}
        self._finished: list[UUID] = []
        self._by_key: dict[str, tuple[str, bytes]] = {}
        self.requests: list[httpx2.Request] = []
        """Every request that came."""

    def finish(self, job_id: UUID) -> None:
        """End a queued job."""
        job = self._jobs[job_id]
        self._finish_with(job, self._answer(job.source, self._images[job_id]))

    def kill(self, job_id: UUID) -> None:
        """Let a queued job be dead of an error of ours."""
        self._finish_with(self._jobs[job_id], EngineError("the fake gateway was told so"))

    def _finish_with(self, job: Job, answer: str | AlexqError) -> None:
        changed: dict[str, Any] = {"state": JobState.SUCCEEDED, "attempt": job.attempt + 1}
        if isinstance(answer, AlexqError):
            state = JobState.FAILED if isinstance(answer, ImageError) else JobState.DEAD
            changed |= {"state": state, "error": JobError(code=answer.code, detail=answer.detail)}
        else:
            changed["predictions"] = [Prediction(rank=1, index=0, label=answer, probability=1.0)]
            changed["model"] = ModelRef(name="fake", version="1", precision="fp32", trained=False)
        self._end(job, **changed)

    def _end(self, job: Job, **changed: Any) -> Job:
        job = job.model_copy(update={**changed, "finished_at": datetime.now(UTC)})
        assert job.job_id is not None
        self._jobs[job.job_id] = job
        self._finished.append(job.job_id)
        return job

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        """Answer a request of :class:`alexq.Client`."""
        return self._respond(request, request.read())

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Answer a request of :class:`alexq.AsyncClient`."""
        return self._respond(request, await request.aread())

    def _respond(self, request: httpx2.Request, body: bytes) -> httpx2.Response:
        self.requests.append(request)
        try:
            status, content = self._serve(request, body)
        except AlexqError as error:
            status = next(
                (status for kind, status in _STATUS if isinstance(error, kind)),
                HTTPStatus.UNPROCESSABLE_ENTITY,
            )
            told = {"status": status, "code": error.code, "detail": error.detail, "title": error.code}
            headers = {"Content-Type": "application/problem+json"}
            return httpx2.Response(status, headers=headers, content=json.dumps(told), request=request)
        return httpx2.Response(status, content=content, request=request)

    def _serve(self, request: httpx2.Request, body: bytes) -> tuple[int, bytes]:
        kind, *rest = request.url.path.removeprefix("/v1/").split("/")
        where = [request.method, *rest]
        if [request.method, kind, *rest] == ["GET", "models"]:
            model = {"name": "fake", "version": "1", "precision": "fp32", "trained": False, "workers": 1}
            return HTTPStatus.OK, json.dumps({"models": [model]}).encode()
        if where == ["POST"]:
            return self._once(request, body, self._take_one if kind == "jobs" else self._take_many)
        served = self._serve_jobs(where, request) if kind == "jobs" else self._serve_submissions(where)
        if served is None:
            raise RouteNotFoundError(f"there is no {request.method} {request.url.path} here")
        return HTTPStatus.OK, served

    def _serve_jobs(self, where: list[str], request: httpx2.Request) -> bytes | None:
        match where:
            case ["GET"]:
                return self._list(dict(request.url.params))
            case ["GET", job_id]:
                return _json(self._job(job_id))
            case ["DELETE", job_id]:
                return _json(self._cancel(self._job(job_id)))
            case ["POST", job_id, "redrive"]:
                return _json(self._redrive(self._job(job_id)))
        return None

    def _serve_submissions(self, where: list[str]) -> bytes | None:
        match where:
            case ["GET", submission_id]:
                return self._status(self._of(submission_id))
            case ["GET", submission_id, "results"]:
                mine = {job.job_id for job in self._of(submission_id)}
                done = [self._jobs[job_id] for job_id in self._finished if job_id in mine]
                return b"".join(_json(job) + b"\n" for job in done)
            case ["DELETE", submission_id]:
                for job in self._of(submission_id):
                    if job.state == JobState.QUEUED:
                        self._cancel(job)
                return self._status(self._of(submission_id))
        return None

    def _once(
        self, request: httpx2.Request, body: bytes, take: Callable[[httpx2.Request, bytes], bytes]
    ) -> tuple[int, bytes]:
        key = request.headers.get("idempotency-key")
        asked = hashlib.sha256(str(request.url).encode() + body).hexdigest()
        if key is not None and key in self._by_key:
            earlier, answered = self._by_key[key]
            if earlier != asked:
                raise IdempotencyKeyReusedError(f"Idempotency-Key {key!r} belongs to an earlier request")
            return HTTPStatus.ACCEPTED, answered
        answer = take(request, body)
        if key is not None:
            self._by_key[key] = asked, answer
        return HTTPStatus.ACCEPTED, answer

    def _take_one(self, request: httpx2.Request, body: bytes) -> bytes:
        if request.headers["content-type"] == "application/json":
            return _json(self._add(new_id(), *unpacked_line(body)))
        source = request.url.params.get("source") or "image 0"
        check_image(body, source, MAX_IMAGE_BYTES)
        return _json(self._add(new_id(), source, body))

    def _take_many(self, request: httpx2.Request, body: bytes) -> bytes:
        good: list[tuple[str, bytes]] = []
        rejected: list[dict[str, str]] = []
        is_tar = request.headers["content-type"] == TAR
        for source, data in (
            unpacked_tar(io.BytesIO(body)) if is_tar else map(unpacked_line, body.splitlines())
        ):
            try:
                if not data.startswith((b"http://", b"https://")):
                    check_image(data, source, MAX_IMAGE_BYTES)
                good.append((source, data))
            except ImageError as error:
                if request.url.params.get("rejected") != "skip":
                    raise
                rejected.append({"source": source, "code": error.code, "detail": error.detail})
        if not good and not rejected:
            raise UsageError("nothing to submit: the request holds no image")
        submission_id = new_id()
        jobs = [self._add(submission_id, source, data) for source, data in good]
        answer = {
            "submission_id": str(submission_id) if jobs else None,
            "total": len(jobs),
            "job_ids": [str(job.job_id) for job in jobs],
            "rejected": rejected,
        }
        return json.dumps(answer).encode()

    def _add(self, submission_id: UUID, source: str, data: bytes) -> Job:
        job_id = new_id()
        self._images[job_id] = data
        self._jobs[job_id] = Job(
            job_id=job_id,
            submission_id=submission_id,
            source=source,
            state=JobState.QUEUED,
            attempt=0,
            image_key=hashlib.sha256(data).hexdigest(),
            predictions=[],
            model=None,
            error=None,
            timings=Timings(),
            created_at=datetime.now(UTC),
        )
        if self._finishes:
            self.finish(job_id)
        return self._jobs[job_id]

    def _job(self, job_id: str) -> Job:
        try:
            return self._jobs[UUID(job_id)]
        except (KeyError, ValueError) as error:
            raise JobNotFoundError(f"there is no job {job_id}") from error

    def _of(self, submission_id: str) -> list[Job]:
        jobs = [job for job in self._jobs.values() if str(job.submission_id) == submission_id]
        if not jobs:
            raise JobNotFoundError(f"there is no submission {submission_id}")
        return jobs

    def _cancel(self, job: Job) -> Job:
        if job.state == JobState.QUEUED:
            return self._end(job, state=JobState.CANCELLED)
        if job.state != JobState.CANCELLED:
            raise JobStateError(f"job {job.job_id} has ended already: it is {job.state}")
        return job

    def _redrive(self, job: Job) -> Job:
        if job.state != JobState.DEAD or job.job_id is None:
            raise JobStateError(f"job {job.job_id} is {job.state}; only a dead job can be queued again")
        self._finished.remove(job.job_id)
        job = job.model_copy(update={"state": JobState.QUEUED, "error": None, "finished_at": None})
        self._jobs[job.job_id] = job  # type: ignore[index]
        return job

    def _list(self, params: dict[str, str]) -> bytes:
        newest_first = sorted(self._jobs.values(), key=lambda job: str(job.job_id), reverse=True)
        jobs = [
            job
            for job in newest_first
            if params.get("state") in (None, job.state)
            and params.get("label") in (None, job.label)
            and params.get("submission_id") in (None, str(job.submission_id))
            and ("cursor" not in params or str(job.job_id) < params["cursor"])
        ]
        limit = int(params.get("limit", "50"))
        cursor = str(jobs[limit - 1].job_id) if len(jobs) > limit else None
        page = {"jobs": [json.loads(_json(job)) for job in jobs[:limit]], "next_cursor": cursor}
        return json.dumps(page).encode()

    def _status(self, jobs: list[Job]) -> bytes:
        counts = Counter(str(job.state) for job in jobs)
        status = {
            "submission_id": str(jobs[0].submission_id),
            "created_at": str(jobs[0].created_at),
            "total": len(jobs),
            "is_finished": not counts["queued"],
            "counts": {state: count for state, count in counts.items() if count},
            "images_per_s": None,
            "estimated_finish_at": None,
        }
        return json.dumps(status).encode()


def _json(job: Job) -> bytes:
    return job.model_dump_json().encode()
