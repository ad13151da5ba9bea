"""What the HTTP clients do, written once: generators that yield requests and are sent the answers' bodies."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Generator, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, Literal, TypeVar
from uuid import UUID, uuid4

from pydantic import BaseModel

from alexq_producer.packing import Packer, encoded, url_of, utf8
from alexq_producer.wire import Call
from alexq_schema.errors import JobNotFoundError, WaitTimeoutError
from alexq_schema.job import Job, JobState, ModelRef
from alexq_schema.names import Lane

T = TypeVar("T")
Operation = Generator[Call, bytes, T]

LONGEST_WAIT_S: Final = 60.0
"""The longest that one request asks the gateway to wait; then the next is sent."""


class SubmissionStatus(BaseModel):
    """How far a submission is."""

    submission_id: UUID
    total: int
    """Jobs accepted."""
    is_finished: bool
    counts: dict[JobState, int]
    """Jobs by state; absent means 0."""
    images_per_s: float | None
    estimated_finish_at: datetime | None


class _RejectedInput(BaseModel):
    source: str
    code: str
    detail: str

    def as_job(self) -> Job:
        return Job.rejected(self.source, self.code, self.detail)


class _AcceptedSubmission(BaseModel):
    submission_id: UUID | None
    job_ids: list[UUID]
    rejected: list[_RejectedInput]


class ServedModel(ModelRef):
    """A model version that workers serve or have served."""

    workers: int
    """Workers that serve it now."""


class _Models(BaseModel):
    models: list[ServedModel]


class _JobPage(BaseModel):
    jobs: list[Job]
    next_cursor: str | None


class Accepted(BaseModel):
    """What the gateway answered to a submission."""

    submission_id: UUID | None
    """None where every image was refused."""
    job_ids: tuple[UUID, ...]
    rejected: tuple[Job, ...]
    """Images that were refused, in the shape of jobs without ids."""

    def known_id(self) -> UUID:
        """Return the submission's id.

        Raises:
            JobNotFoundError: there is none.
        """
        if self.submission_id is None:
            raise JobNotFoundError("every image was refused: there is no submission")
        return self.submission_id


def classify(
    image: Any,
    timeout_s: float,
    model: str | None,
    options: Mapping[str, Any],
    idempotency_key: str | None,
) -> Operation[Job]:
    """Hand in one image and return its finished job."""
    deadline = time.monotonic() + timeout_s
    headers = {"Idempotency-Key": idempotency_key or str(uuid4())}
    url = url_of(image)
    if url is not None:
        body, params = json.dumps({"image_url": url}).encode(), _given(model=model, **options)
        headers["Content-Type"] = "application/json"
    else:
        name, body = encoded(image, 0)
        params = _given(source=utf8(name), model=model, **options)
        headers["Content-Type"] = "application/octet-stream"
    first = Call("POST", "/v1/jobs", params, headers, io.BytesIO(body))
    job = Job.model_validate_json((yield _waiting(first, timeout_s)))
    while not (isinstance(job.state, JobState) and job.state.is_terminal):
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            raise WaitTimeoutError(f"job {job.job_id} is unfinished after {timeout_s} s; it goes on")
        job = Job.model_validate_json((yield _waiting(Call("GET", f"/v1/jobs/{job.job_id}"), left_s)))
    return job


def _waiting(call: Call, wait_s: float) -> Call:
    """Return ``call`` so that the gateway answers when the job is finished, or after ``wait_s``."""
    wait_s = float(min(LONGEST_WAIT_S, max(1.0, wait_s)) // 1)
    headers = {**call.headers, "Prefer": f"wait={wait_s:.0f}"}
    return Call(call.method, call.path, call.params, headers, call.body, wait_s)


def submit(
    packer: Packer,
    *,
    rejected: Literal["raise", "skip"],
    deadline_s: float | None,
    lane: Lane,
    webhook: UUID | None,
    model: str | None,
    options: Mapping[str, Any],
    idempotency_key: str | None,
) -> Operation[Accepted]:
    """Hand in what was packed."""
    refused = tuple(rejection.as_job() for rejection in packer.refused)
    packed = packer.finish()
    if packed is None:
        return Accepted(submission_id=None, job_ids=(), rejected=refused)
    params = _given(
        rejected=rejected,
        deadline_s=deadline_s,
        lane=lane.value,
        webhook=None if webhook is None else str(webhook),
        model=model,
        **options,
    )
    headers = {"Content-Type": packer.content_type, "Idempotency-Key": idempotency_key or str(uuid4())}
    answer = yield Call("POST", "/v1/submissions", params, headers, packed)
    accepted = _AcceptedSubmission.model_validate_json(answer)
    return Accepted(
        submission_id=accepted.submission_id,
        job_ids=tuple(accepted.job_ids),
        rejected=refused + tuple(one.as_job() for one in accepted.rejected),
    )


def submission(submission_id: UUID) -> Operation[Accepted]:
    """Return what was accepted as an earlier submission."""
    yield Call("GET", f"/v1/submissions/{submission_id}")
    jobs = yield from list_jobs(None, None, submission_id, None)
    job_ids = sorted(job.job_id for job in jobs if job.job_id is not None)  # as they were submitted
    return Accepted(submission_id=submission_id, job_ids=tuple(job_ids), rejected=())


def submission_of_job(job_id: UUID) -> Operation[Accepted]:
    """Return one job as if it were all of its submission."""
    job = yield from show(job_id)
    return Accepted(submission_id=job.submission_id, job_ids=(job_id,), rejected=())


def status(submission_id: UUID) -> Operation[SubmissionStatus]:
    """Return how far a submission is."""
    return SubmissionStatus.model_validate_json((yield Call("GET", f"/v1/submissions/{submission_id}")))


def cancel_submission(submission_id: UUID) -> Operation[SubmissionStatus]:
    """Cancel what is unfinished of a submission."""
    return SubmissionStatus.model_validate_json((yield Call("DELETE", f"/v1/submissions/{submission_id}")))


def list_models() -> Operation[list[ServedModel]]:
    """Return the model versions that workers serve or have served."""
    return _Models.model_validate_json((yield Call("GET", "/v1/models"))).models


def show(job_id: UUID) -> Operation[Job]:
    """Return a job."""
    return Job.model_validate_json((yield Call("GET", f"/v1/jobs/{job_id}")))


def cancel(job_id: UUID) -> Operation[Job]:
    """Cancel a job."""
    return Job.model_validate_json((yield Call("DELETE", f"/v1/jobs/{job_id}")))


def redrive(job_id: UUID) -> Operation[Job]:
    """Queue a dead job again."""
    return Job.model_validate_json((yield Call("POST", f"/v1/jobs/{job_id}/redrive")))


def list_jobs(
    state: JobState | None, label: str | None, submission_id: UUID | None, limit: int | None
) -> Operation[list[Job]]:
    """Return jobs, newest first, page after page, up to ``limit``."""
    found: list[Job] = []
    cursor: str | None = None
    while limit is None or len(found) < limit:
        params = _given(
            state=state.value if state else None,
            label=label,
            submission_id=str(submission_id) if submission_id else None,
            cursor=cursor,
            limit=min(500, 500 if limit is None else limit - len(found)),
        )
        page = _JobPage.model_validate_json((yield Call("GET", "/v1/jobs", params)))
        found += page.jobs
        cursor = page.next_cursor
        if cursor is None:
            break
    return found


def _given(**params: Any) -> dict[str, Any]:
    return {name: value for name, value in params.items() if value is not None}


class Pending:
    """The jobs of a submission whose results have not come: which stream to open next, and what is new."""

    def __init__(self, accepted: Accepted, timeout_s: float | None) -> None:
        self._accepted = accepted
        self._timeout_s = timeout_s
        self._deadline = None if timeout_s is None else time.monotonic() + timeout_s
        self._pending = set(accepted.job_ids)
        self._was_asked = False

    def next_stream(self) -> Call | None:
        """Return the request for a stream of results, or None when all have come.

        Raises:
            WaitTimeoutError: the time is over.
        """
        if not self._pending:
            return None
        left_s = LONGEST_WAIT_S if self._deadline is None else self._deadline - time.monotonic()
        if left_s <= 0 and self._was_asked:
            raise WaitTimeoutError(
                f"{len(self._pending)} of {len(self._accepted.job_ids)} jobs of submission "
                f"{self._accepted.submission_id} are unfinished after {self._timeout_s} s; they go on"
            )
        self._was_asked = True
        wait_s = round(max(0.0, min(left_s, LONGEST_WAIT_S)), 3)
        path = f"/v1/submissions/{self._accepted.submission_id}/results"
        return Call("GET", path, {"wait_s": wait_s}, wait_s=wait_s)

    def parse(self, line: str) -> Job | None:
        """Return the job in a line of the stream, or None where it has come before."""
        job = Job.model_validate_json(line)
        if job.job_id not in self._pending:
            return None
        self._pending.remove(job.job_id)
        return job


def in_order(jobs: Sequence[Job], accepted: Accepted) -> list[Job]:
    """Return finished jobs in the order submitted."""
    by_id = {job.job_id: job for job in jobs}
    return [by_id[job_id] for job_id in accepted.job_ids]
