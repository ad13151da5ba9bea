"""The pipeline's job table, on SQL."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from alexq_schema.db import jobs, queries
from alexq_schema.db.session import Database
from alexq_schema.job import Job
from alexq_schema.names import TASK_CLASSIFY_IMAGE
from alexq_schema.work import Claim, Outcome


@dataclass(frozen=True, slots=True)
class Commit:
    """What a commit did (see :class:`alexq_worker.pipeline.ports.Committed`)."""

    fenced: int
    answers: Mapping[UUID, Job]


class SqlJobTable:
    """One transaction a call; see :class:`alexq_worker.pipeline.ports.JobTable`."""

    def __init__(self, database: Database, *, worker_id: UUID, model_id: int, max_attempts: int) -> None:
        self._database = database
        self._worker_id = worker_id
        self._model_id = model_id
        self._max_attempts = max_attempts

    def claim(self, job_ids: Sequence[UUID]) -> list[Claim]:
        """Take those that are queued: one UPDATE."""
        with self._database.begin() as connection:
            return jobs.claim(connection, job_ids, self._worker_id)

    def commit(self, outcomes: Sequence[Outcome]) -> Commit:
        """Write what became of claimed jobs, and read back those that someone waits for."""
        asked = [outcome.claim.job_id for outcome in outcomes if outcome.claim.task == TASK_CLASSIFY_IMAGE]
        with self._database.begin() as connection:
            written = jobs.commit(
                connection,
                outcomes,
                worker_id=self._worker_id,
                model_id=self._model_id,
                max_attempts=self._max_attempts,
            )
            answers = {job.job_id: job for job in queries.finished(connection, asked) if job.job_id}
        return Commit(len(outcomes) - written, answers)

    def release(self, claims: Sequence[Claim]) -> None:
        """Give claimed jobs back, their attempt not used up."""
        with self._database.begin() as connection:
            jobs.release(connection, claims, worker_id=self._worker_id)
