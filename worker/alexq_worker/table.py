"""The pipeline's job table, on SQL."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from uuid import UUID

from alexq_schema.db import jobs, past_results, queries
from alexq_schema.db.jobs import Limits
from alexq_schema.db.session import Database
from alexq_schema.job import Job, JobState
from alexq_schema.names import DEFAULT_QUEUE, TASK_CLASSIFY_IMAGE
from alexq_schema.work import Claim, Outcome, Reused, Succeeded

MAX_PAUSE_S = 600.0
"""Longest pause between two attempts."""


@dataclass(frozen=True, slots=True)
class Commit:
    """What a commit did (see :class:`alexq_worker.pipeline.ports.Committed`)."""

    states: Mapping[JobState, int]
    fenced: int
    answers: Mapping[UUID, Job]


class SqlJobTable:
    """One transaction a call; see :class:`alexq_worker.pipeline.ports.JobTable`."""

    def __init__(
        self,
        database: Database,
        *,
        worker_id: UUID,
        queue: str = DEFAULT_QUEUE,
        limits: Limits,
        retry_pause_s: float,
        random: Random,
    ) -> None:
        self._database = database
        self._worker_id = worker_id
        self._queue = queue
        self._limits = limits
        self._retry_pause_s = retry_pause_s
        self._random = random

    def claim(self, job_ids: Sequence[UUID]) -> list[Claim]:
        """Take those that are queued in this worker's queue: one UPDATE."""
        with self._database.begin_repeatable() as connection:
            return jobs.claim(connection, job_ids, self._worker_id, self._queue)

    def find_past(self, claims: Sequence[Claim], model_id: int) -> list[Reused]:
        """Return the outcomes of those that a past result answers: one statement."""
        with self._database.read() as connection:
            return past_results.find(connection, claims, model_id)

    def commit(self, outcomes: Sequence[Outcome]) -> Commit:
        """Write what became of claimed jobs, keep what later ones may reuse, read what someone waits for."""
        reusable = [one for one in outcomes if isinstance(one, Succeeded) and one.claim.reuses]
        asked = [outcome.claim.job_id for outcome in outcomes if outcome.claim.task == TASK_CLASSIFY_IMAGE]
        with self._database.begin_repeatable() as connection:
            written = jobs.commit(
                connection,
                outcomes,
                worker_id=self._worker_id,
                limits=self._limits,
                pause_s=self._pause_s,
            )
            if reusable:
                past_results.keep(connection, reusable, self._worker_id)
            ended = queries.finished(connection, asked) if asked else []
        answers = {job.job_id: job for job in ended if job.job_id}
        return Commit(written, len(outcomes) - sum(written.values()), answers)

    def _pause_s(self, errors: int) -> float:
        """Return how long a job rests after its so-manyeth error: exponential backoff with jitter.

        Jobs that failed together are tried again apart. Source: "Exponential Backoff And Jitter", AWS
        Architecture Blog, 2015 (their "equal jitter").
        """
        longest = min(self._retry_pause_s * 4.0 ** (errors - 1), MAX_PAUSE_S)
        return longest * self._random.uniform(0.5, 1.0)

    def release(self, claims: Sequence[Claim]) -> None:
        """Give claimed jobs back, their attempt not used up."""
        with self._database.begin_repeatable() as connection:
            jobs.release(connection, claims, worker_id=self._worker_id)
