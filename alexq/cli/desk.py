"""Where the commands about jobs hand in and ask: straight at the services, or over HTTP."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self
from uuid import UUID

import stamina

from alexq_schema.errors import JobNotFoundError, JobStateError, UsageError
from alexq_schema.job import Job, JobState
from alexq_schema.options import OptionFields

if TYPE_CHECKING:
    from stamina.instrumentation import RetryDetails

    from alexq_producer import Producer
    from alexq_producer.client import Client


class Handed(Protocol):
    """Jobs that were handed in together."""

    @property
    def id(self) -> UUID | None: ...

    @property
    def job_ids(self) -> Sequence[UUID]: ...

    def __len__(self) -> int: ...

    def results(self) -> Iterator[Job]: ...


class Desk(Protocol):
    """Takes images in and knows jobs; methods and errors are those of Producer and Client."""

    def submit(
        self,
        images: Iterable[Any],
        deadline_s: float | None,
        queue: str,
        model: str | None,
        options: OptionFields,
    ) -> tuple[Handed, Sequence[Job]]:
        """Hand in images; return what was accepted, and what was refused in the shape of jobs."""

    def find(self, id_: UUID) -> Handed:
        """Return a submission, or a lone job as one."""

    def jobs(self, job_ids: Sequence[UUID]) -> Sequence[Job]:
        """Return these jobs."""

    def jobs_of(self, handed: Handed) -> Sequence[Job]:
        """Return the jobs of a submission as they stand, in the order submitted."""

    def newest(
        self, *, state: JobState | None, label: str | None, submission_id: UUID | None, limit: int
    ) -> Sequence[Job]:
        """Return jobs, newest first."""

    def cancel(self, job_ids: Sequence[UUID]) -> Sequence[UUID]:
        """Cancel jobs; return those that were unfinished."""

    def redrive(
        self, job_ids: Sequence[UUID] | None, error_code: str | None, submission_id: UUID | None
    ) -> Sequence[UUID]:
        """Queue dead jobs again; return them."""

    def workers_alive(self, queue: str | None) -> int:
        """Return how many workers, or workers of one queue where that can be told, show progress now."""


class Local:
    """A desk at the services themselves."""

    def __init__(self, producer: Producer) -> None:
        self._producer = producer

    def submit(
        self,
        images: Iterable[Any],
        deadline_s: float | None,
        queue: str,
        model: str | None,
        options: OptionFields,
    ) -> tuple[Handed, Sequence[Job]]:
        submission = self._producer.submit(
            images, rejected="skip", deadline_s=deadline_s, queue=queue, model=model, **options
        )
        return submission, [rejection.as_job() for rejection in submission.rejected]

    def find(self, id_: UUID) -> Handed:
        try:
            return self._producer.submission(id_)
        except JobNotFoundError:
            return self._producer.submission_of_job(id_)

    def jobs(self, job_ids: Sequence[UUID]) -> Sequence[Job]:
        return self._producer.jobs(job_ids)

    def jobs_of(self, handed: Handed) -> Sequence[Job]:
        return self._producer.jobs(handed.job_ids)

    def newest(
        self, *, state: JobState | None, label: str | None, submission_id: UUID | None, limit: int
    ) -> Sequence[Job]:
        return self._producer.newest(state=state, label=label, submission_id=submission_id, limit=limit)

    def cancel(self, job_ids: Sequence[UUID]) -> Sequence[UUID]:
        return self._producer.cancel(job_ids)

    def redrive(
        self, job_ids: Sequence[UUID] | None, error_code: str | None, submission_id: UUID | None
    ) -> Sequence[UUID]:
        return self._producer.redrive(job_ids, error_code=error_code, submission_id=submission_id)

    def workers_alive(self, queue: str | None) -> int:
        return self._producer.workers_alive(queue)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._producer.close()


class Remote:
    """A desk at a gateway; its repetitions are told on stderr."""

    def __init__(self, client: Client) -> None:
        self._client = client
        stamina.instrumentation.set_on_retry_hooks([_tell_of_retry])

    def submit(
        self,
        images: Iterable[Any],
        deadline_s: float | None,
        queue: str,
        model: str | None,
        options: OptionFields,
    ) -> tuple[Handed, Sequence[Job]]:
        if queue:
            raise UsageError(
                f"--queue {queue}: over HTTP the API key leads to its queue "
                "(alexq keys create TENANT --queue NAME)"
            )
        submission = self._client.submit(
            images, rejected="skip", deadline_s=deadline_s, model=model, **options
        )
        return submission, submission.rejected

    def find(self, id_: UUID) -> Handed:
        try:
            return self._client.submission(id_)
        except JobNotFoundError:
            return self._client.submission_of_job(id_)

    def jobs(self, job_ids: Sequence[UUID]) -> Sequence[Job]:
        return [self._client.job(job_id) for job_id in job_ids]

    def jobs_of(self, handed: Handed) -> Sequence[Job]:
        found = {job.job_id: job for job in self._client.jobs(submission_id=handed.id, limit=None)}
        return [found[job_id] for job_id in handed.job_ids]

    def newest(
        self, *, state: JobState | None, label: str | None, submission_id: UUID | None, limit: int
    ) -> Sequence[Job]:
        return self._client.jobs(state=state, label=label, submission_id=submission_id, limit=limit)

    def cancel(self, job_ids: Sequence[UUID]) -> Sequence[UUID]:
        unfinished = [job_id for job_id in job_ids if not _is_over(self._client.job(job_id))]
        return [job_id for job_id in unfinished if _changes(self._client.cancel, job_id)]

    def redrive(
        self, job_ids: Sequence[UUID] | None, error_code: str | None, submission_id: UUID | None
    ) -> Sequence[UUID]:
        if job_ids is None:
            dead = self._client.jobs(state=JobState.DEAD, submission_id=submission_id, limit=None)
        else:
            dead = [self._client.job(job_id) for job_id in job_ids]
        wanted = [
            job.job_id
            for job in dead
            if job.job_id and (error_code is None or (job.error and job.error.code == error_code))
        ]
        return [job_id for job_id in wanted if _changes(self._client.redrive, job_id)]

    def workers_alive(self, queue: str | None) -> int:
        return sum(model.workers for model in self._client.models())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()


def _tell_of_retry(details: RetryDetails) -> None:
    sys.stderr.write(f"{details.caused_by}: trying again in {details.wait_for:.1f} s\n")


def _is_over(job: Job) -> bool:
    return isinstance(job.state, JobState) and job.state.is_terminal


def _changes(change: Any, job_id: UUID) -> bool:
    try:
        change(job_id)
    except JobStateError:
        return False
    return True


def known_to(desk: Desk, ids: Sequence[UUID]) -> set[UUID]:
    """Return those of ``ids`` that are jobs."""
    known: set[UUID] = set()
    for job_id in ids:
        with suppress(JobNotFoundError):
            known.update(job.job_id for job in desk.jobs([job_id]) if job.job_id)
    return known


def require_known(ids: Sequence[UUID], known: set[UUID]) -> None:
    """Raise JobNotFoundError if some of ``ids`` are not among the ``known``."""
    if unknown := [str(job_id) for job_id in ids if job_id not in known]:
        raise JobNotFoundError(f"there is no job {', '.join(unknown)}")
