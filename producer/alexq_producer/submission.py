"""What became of the images of one call: pushed by Redis, read from SQL."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Self
from uuid import UUID

from alexq_producer.announcements import Announcements, Listener
from alexq_producer.combining import Combining
from alexq_schema import tracing
from alexq_schema.db import queries
from alexq_schema.db.session import Database
from alexq_schema.errors import AlexqError, WaitTimeoutError
from alexq_schema.job import Job, JobState

SILENCE_S = 5.0
"""Silence after which the database is asked all the same: an announcement may get lost."""

RECHECK_S = 30.0
"""Time after which it is asked for everything even while announcements come."""


@dataclass(frozen=True, slots=True)
class Rejection:
    """An input that never became a job."""

    source: str
    error: AlexqError

    def as_job(self) -> Job:
        """Return the rejection in the shape of a job, without an id."""
        return Job.rejected(self.source, self.error.code, self.error.detail)


class Reader:
    """Reads finished jobs, in one statement for all threads that ask at the same time."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self._read_together = Combining(self._read)

    def finished(self, job_ids: Sequence[UUID]) -> list[Job]:
        """Return those of ``job_ids`` that are terminal, in the order in which they finished.

        Raises:
            DatabaseUnavailableError: the database does not answer.
        """
        return self._read_together(job_ids) if job_ids else []

    def _read(self, requests: Sequence[Sequence[UUID]]) -> list[list[Job]]:
        everything = list(dict.fromkeys(job_id for job_ids in requests for job_id in job_ids))
        with self.database.read() as connection:
            jobs = queries.finished(connection, everything)
        if len(requests) == 1:
            return [jobs]
        wanted = [set(job_ids) for job_ids in requests]
        return [[job for job in jobs if job.job_id in mine] for mine in wanted]


class Submission:
    """Jobs to wait for; ``job_ids`` are in the order of the images that were accepted."""

    def __init__(
        self,
        submission_id: UUID,
        job_ids: Sequence[UUID],
        *,
        rejected: Sequence[Rejection],
        reader: Reader,
        announcements: Announcements,
    ) -> None:
        self.id = submission_id
        self.job_ids = tuple(job_ids)
        self.rejected = tuple(rejected)
        """Inputs left out, when ``submit`` was told to skip them."""
        self._reader = reader
        self._announcements = announcements

    def __len__(self) -> int:
        return len(self.job_ids)

    def __repr__(self) -> str:
        return f"<Submission {self.id}: {len(self)} jobs, {len(self.rejected)} rejected>"

    def results(self, timeout_s: float | None = None) -> Iterator[Job]:
        """Yield each job once as it reaches a terminal state, in completion order.

        Raises:
            WaitTimeoutError: some are unfinished after ``timeout_s`` seconds (and, while Redis hangs,
                up to ``ALEXQ_PUBLISH_TIMEOUT_S`` more); they go on.
            DatabaseUnavailableError: the database does not answer; call again to go on.
        """
        if not self.job_ids:
            return
        deadline = _deadline(timeout_s)
        with self._announcements.of(self.id, self.job_ids) as listener:
            finished = self._reader.finished(self.job_ids)  # before it listened
            yield from self._announced(listener, finished, timeout_s, deadline)

    def _announced(
        self, listener: Listener, finished: list[Job], timeout_s: float | None, deadline: float
    ) -> Iterator[Job]:
        pending = dict.fromkeys(self.job_ids)  # a set that keeps its order
        checked_at = time.monotonic()
        while True:
            for job in finished:
                if job.job_id in pending:
                    del pending[job.job_id]
                    yield job
            if not pending:
                return
            silence_s = min(SILENCE_S, deadline - time.monotonic())
            if silence_s <= 0:
                raise WaitTimeoutError(
                    f"{len(pending)} of {len(self)} jobs of submission {self.id} are unfinished after "
                    f"{timeout_s} s; they go on: `alexq result {self.id}` shows them"
                )
            finished = listener.next(silence_s)
            if not finished or time.monotonic() - checked_at > RECHECK_S:
                checked_at = time.monotonic()
                finished += self._reader.finished(list(pending))

    def wait(self, timeout_s: float | None = None) -> list[Job]:
        """Return every job, finished, in the order submitted.

        Raises:
            WaitTimeoutError, DatabaseUnavailableError: as :meth:`results`.
        """
        with tracing.span("wait", attributes={"alexq.submission.id": str(self.id)}):
            finished = {job.job_id: job for job in self.results(timeout_s)}
        return [finished[job_id] for job_id in self.job_ids]

    def wait_with(self, listener: Listener, timeout_s: float) -> list[Job]:
        """Return every job, finished; ``listener`` was opened before they were accepted.

        Raises:
            WaitTimeoutError, DatabaseUnavailableError: as :meth:`results`.
        """
        return list(self._announced(listener, [], timeout_s, _deadline(timeout_s)))

    def counts(self) -> dict[JobState, int]:
        """Return how many jobs are in each state now; absent means 0."""
        with self._reader.database.read() as connection:
            return queries.counts(connection, self.id)

    @classmethod
    def load(cls, submission_id: UUID, reader: Reader, announcements: Announcements) -> Self | None:
        """Return an earlier submission, or None if there is no such one."""
        with reader.database.read() as connection:
            job_ids = queries.submission_job_ids(connection, submission_id)
        if job_ids is None:
            return None
        return cls(submission_id, job_ids, rejected=(), reader=reader, announcements=announcements)


def _deadline(timeout_s: float | None) -> float:
    return math.inf if timeout_s is None else time.monotonic() + timeout_s
