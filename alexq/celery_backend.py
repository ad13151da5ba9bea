"""A Celery result backend that reads jobs from SQL: ``AsyncResult(job_id)`` for any job, old ones too.

    app = Celery(result_backend="alexq+postgresql://…")   # or alexq+sqlite:////path, or alexq://

``alexq://`` takes the database from the ``ALEXQ_`` environment or the running embedded stack. The
result is the job object (a dict), whether the job succeeded or failed; a cancelled job is REVOKED.
It only reads: jobs are written by alexq's workers.
"""

from __future__ import annotations

from typing import Any, NoReturn
from uuid import UUID

from celery import states
from celery.backends.base import BaseBackend
from celery.exceptions import TaskRevokedError

from alexq_schema.db import queries
from alexq_schema.db.session import Database
from alexq_schema.errors import DatabaseUnavailableError, UsageError
from alexq_schema.job import Job, JobState
from alexq_schema.settings import Settings

_STATES = {
    JobState.QUEUED: states.PENDING,
    JobState.RUNNING: states.STARTED,
    JobState.CANCELLED: states.REVOKED,
}


class JobResultBackend(BaseBackend):  # type: ignore[misc]
    """Registered under the name ``alexq`` by this distribution's entry point."""

    connection_errors = (DatabaseUnavailableError,)
    """What it raises where the database does not answer: Flower then says so."""

    def __init__(self, app: Any, url: str | None = None, **kwargs: Any) -> None:
        """Prepare; connects on first use.

        Args:
            url: the database URL; ``alexq://`` or None for the settings' own.
        """
        super().__init__(app, **kwargs)
        is_own = url is None or url.startswith("alexq:")
        self._database = Database(Settings.connected().database_url if is_own or url is None else url)

    def _get_task_meta_for(self, task_id: str) -> dict[str, Any]:
        job = self._job(task_id)
        if job is None:
            return {"task_id": task_id, "status": states.PENDING, "result": None}
        assert job.state != "rejected"
        status = _STATES.get(job.state, states.SUCCESS)
        return {
            "task_id": task_id,
            "status": status,
            "result": _result(job, status),
            "traceback": None,
            "children": [],
            "date_done": _date_done(job),
        }

    def _job(self, task_id: str) -> Job | None:
        try:
            job_id = UUID(task_id)
        except ValueError:
            return None
        with self._database.read() as connection:
            found = queries.by_id(connection, [job_id])
        return found[0] if found else None

    def process_cleanup(self) -> None:
        """Close the connections."""
        self._database.close()

    def _store_result(self, *_: Any, **__: Any) -> NoReturn:
        raise UsageError(
            "the alexq result backend only reads jobs; give your own tasks another result backend, "
            "or ignore_result=True"
        )

    def _forget(self, task_id: str) -> NoReturn:
        raise UsageError(f"job {task_id}: the alexq result backend only reads; alexq keeps the history")


def _result(job: Job, status: str) -> Any:
    if status == states.REVOKED:
        return TaskRevokedError("the job was cancelled")
    return job.model_dump(mode="json") if status == states.SUCCESS else None


def _date_done(job: Job) -> str | None:
    return None if job.finished_at is None else job.finished_at.isoformat()
