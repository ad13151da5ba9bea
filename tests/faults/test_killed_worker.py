"""A worker dies in the middle of its work; every job still gets one result."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from uuid import UUID

from sqlalchemy import select, text

from alexq_producer import Producer
from alexq_schema.db.session import Database
from alexq_schema.db.tables import Job as JobRow
from alexq_schema.job import JobState
from tests.helpers.eventually import eventually
from tests.helpers.held import MAIN, Held
from tests.helpers.photos import distinct, encode, photo_crops
from tests.helpers.processes import WorkerProcess

StartWorker = Callable[..., WorkerProcess]


def test_a_worker_killed_in_the_middle_of_five_hundred_jobs_costs_no_job(
    producer: Producer, start_worker: StartWorker, database: Database, tmp_path: Path
) -> None:
    images = [encode(crop, "JPEG") for crop in photo_crops(50)]
    held = Held(tmp_path, after_jobs=200)  # if it has not been killed before
    first = start_worker(program=held.program + MAIN, max_batch=16, unhealthy_after_s=600.0)
    submission = producer.submit(distinct(images, 500))
    eventually(lambda: submission.counts().get(JobState.SUCCEEDED, 0) > 50)

    first.kill()
    eventually(lambda: nothing_is_under_way(database), what="what it had sent is done, or not")
    left = submission.counts()
    assert left.get(JobState.RUNNING, 0) > 0, "it was killed too late to matter"
    second = start_worker(max_batch=16)
    jobs = submission.wait(timeout_s=150)

    assert {job.state for job in jobs} == {JobState.SUCCEEDED}
    assert len({job.job_id for job in jobs}) == 500
    by_image: dict[int, set[tuple[int, ...]]] = {}
    for place, job in enumerate(jobs):
        by_image.setdefault(place % 50, set()).add(tuple(p.index for p in job.predictions))
    assert all(len(answers) == 1 for answers in by_image.values()), "one image, one answer"
    assert crashes_of(database, list(submission.job_ids)) == left[JobState.RUNNING]
    assert second.terminate() == 0


def nothing_is_under_way(database: Database) -> bool:
    """Return whether the database has ended what a process that was killed had asked of it."""
    if database.engine.dialect.name == "sqlite":  # in the process itself
        return True
    statement = text(
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid() AND state <> 'idle'"
    )
    with database.read() as connection:
        return connection.execute(statement).scalar_one() == 0


def crashes_of(database: Database, job_ids: list[UUID]) -> int:
    with database.read() as connection:
        return sum(connection.execute(select(JobRow.crashes).where(JobRow.id.in_(job_ids))).scalars())
