"""A worker dies in the middle of its work; every job still gets one result."""

from __future__ import annotations

from collections.abc import Callable
from uuid import UUID

from sqlalchemy import select

from alexq_producer import Producer
from alexq_schema.db.session import Database
from alexq_schema.db.tables import Job as JobRow
from alexq_schema.job import JobState
from tests.helpers.eventually import eventually
from tests.helpers.photos import distinct, encode, photo_crops
from tests.helpers.processes import WorkerProcess

StartWorker = Callable[..., WorkerProcess]


def test_a_worker_killed_in_the_middle_of_five_hundred_jobs_costs_no_job(
    producer: Producer, start_worker: StartWorker, database: Database
) -> None:
    images = [encode(crop, "JPEG") for crop in photo_crops(50)]
    first = start_worker(max_batch=16, image_s=0.01)
    submission = producer.submit(distinct(images, 500))
    eventually(lambda: submission.counts().get(JobState.SUCCEEDED, 0) > 50)

    first.kill()
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


def crashes_of(database: Database, job_ids: list[UUID]) -> int:
    with database.read() as connection:
        return sum(connection.execute(select(JobRow.crashes).where(JobRow.id.in_(job_ids))).scalars())
