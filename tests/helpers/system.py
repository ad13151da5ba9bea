"""The job table under a test's hand: workers without processes, time without waiting."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from sqlalchemy import Row, select, update

from alexq_schema.db import accept, jobs, publishing, queries, workers
from alexq_schema.db.accept import NewJob, NewSubmission
from alexq_schema.db.clock import db_now
from alexq_schema.db.deliveries import Notice
from alexq_schema.db.jobs import Limits
from alexq_schema.db.session import Database
from alexq_schema.db.tables import Job as JobRow
from alexq_schema.db.tables import JobEvent, Worker
from alexq_schema.ids import new_id
from alexq_schema.job import Job, ModelRef
from alexq_schema.names import Lane
from alexq_schema.options import Options
from alexq_schema.work import Claim, Outcome, PredictionWriter, Succeeded

MODEL = ModelRef(name="alexnet", version="test", precision="fp32", trained=False)


LIMITS = Limits(max_attempts=2, max_crashes=3)
SILENT_AFTER_S = 600.0
"""Longer than any test takes: only who is silenced is silent."""


class System:
    """Two workers on one database, moved by hand."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.pause_s = 0.0
        with database.begin() as connection:
            self.model_id = workers.register_model(connection, MODEL, "0" * 64)
        self.worker, self.other = self.join(), self.join()

    def join(self) -> UUID:
        worker_id = new_id()
        with self.database.begin() as connection:
            workers.register(connection, worker_id, host="h", pid=1, device="cpu", model_id=self.model_id)
        return worker_id

    def start_earlier(self, worker_id: UUID, by_s: float) -> None:
        """Let a worker have been there for longer."""
        with self.database.begin() as connection:
            statement = update(Worker).where(Worker.id == worker_id)
            connection.execute(statement.values(started_at=db_now(-by_s)))

    def leave(self, worker_id: UUID) -> None:
        with self.database.begin() as connection:
            workers.leave(connection, worker_id)

    def serve(self, version: str) -> None:
        """Commit from now on as another version of the model."""
        model = MODEL.model_copy(update={"version": version})
        with self.database.begin() as connection:
            self.model_id = workers.register_model(connection, model, "1" * 64)

    def queue(
        self,
        count: int,
        *,
        image: str = "a" * 64,
        deadline_s: float | None = None,
        lane: Lane = Lane.BULK,
        notice: Notice | None = None,
        tenant: str | None = None,
        options: Options | None = None,
        queue: str = "",
    ) -> list[UUID]:
        new = [NewJob(new_id(), f"{number}.jpg", image, 3) for number in range(count)]
        one = NewSubmission(new_id(), new, lane, deadline_s, tenant, notice, options=options, queue=queue)
        with self.database.begin() as connection:
            accept.add(connection, [one])
        return [job.job_id for job in new]

    def claim(self, job_ids: list[UUID], worker: UUID | None = None, queue: str = "") -> list[Claim]:
        with self.database.begin() as connection:
            return jobs.claim(connection, job_ids, worker or self.worker, queue)

    def commit(self, outcomes: list[Outcome], worker: UUID | None = None) -> int:
        made = [o._replace(model_id=self.model_id) if isinstance(o, Succeeded) else o for o in outcomes]
        with self.database.begin() as connection:
            written = jobs.commit(
                connection,
                made,
                worker_id=worker or self.worker,
                limits=LIMITS,
                pause_s=lambda errors: self.pause_s * errors,
            )
        return sum(written.values())

    def return_silent(self) -> list[jobs.Ended]:
        with self.database.begin() as connection:
            return jobs.return_silent(connection, silent_after_s=SILENT_AFTER_S, limits=LIMITS)

    def take_unpublished(self, **how: Any) -> list[UUID]:
        with self.database.begin() as connection:
            found = publishing.take_unpublished(connection, **{"limit": 100, **how})
        return [job_id for job_id, *_ in found]

    def redrive(self, job_ids: list[UUID] | None = None, **filters: Any) -> list[UUID]:
        with self.database.begin() as connection:
            return jobs.redrive(connection, job_ids, actor="a test", **filters)

    def change(self, job_ids: list[UUID], **values: Any) -> None:
        """Write columns of jobs directly: to let time pass."""
        with self.database.begin() as connection:
            connection.execute(update(JobRow).where(JobRow.id.in_(job_ids)).values(**values))

    def events(self, job_id: UUID) -> list[Row[Any]]:
        """Return the record of a job, oldest first."""
        with self.database.read() as connection:
            statement = select(JobEvent.__table__).where(JobEvent.job_id == job_id).order_by(JobEvent.id)
            return list(connection.execute(statement).all())

    def silence(self, worker: UUID, for_s: float = SILENT_AFTER_S + 1) -> None:
        with self.database.begin() as connection:
            connection.execute(update(Worker).where(Worker.id == worker).values(last_seen_at=db_now(-for_s)))

    def get(self, job_id: UUID) -> Job:
        with self.database.read() as connection:
            return queries.by_id(connection, [job_id])[0]

    def states(self, job_ids: list[UUID]) -> list[str]:
        with self.database.read() as connection:
            return [str(job.state) for job in queries.by_id(connection, job_ids)]


def success(claim: Claim, label: str = "tabby") -> Succeeded:
    """Return a result; :meth:`System.commit` names the model."""
    return Succeeded(claim, PredictionWriter([label]).write([0], [0.5]), 0, 0.1, 0.2, 64)
