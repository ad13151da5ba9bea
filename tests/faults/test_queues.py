"""Two classes of workers: each does its own jobs, whatever happens to messages and processes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from uuid import UUID

import redis
from celery import Celery
from sqlalchemy import select

from alexq_producer import Producer
from alexq_schema.celery_settings import publish
from alexq_schema.db import accept
from alexq_schema.db.accept import NewJob, NewSubmission
from alexq_schema.db.session import Database
from alexq_schema.db.tables import Job as JobRow
from alexq_schema.db.tables import Worker
from alexq_schema.ids import new_id
from alexq_schema.images import open_image_store
from alexq_schema.job import Job, JobState
from alexq_schema.messages import Unpublished
from alexq_schema.names import TASK_CLASSIFY_JOBS, Lane, queue_name
from alexq_schema.settings import Settings
from tests.helpers.eventually import eventually
from tests.helpers.photos import encode, photo_crops
from tests.helpers.processes import WorkerProcess

PHOTOGRAPHS = [encode(crop, "JPEG") for crop in photo_crops(4)]
VIP = queue_name(Lane.BULK, "vip")

Start = Callable[..., WorkerProcess]


def doers(database: Database, job_ids: Sequence[UUID]) -> set[int]:
    """Return the pids of the workers that did, or do, these jobs."""
    statement = select(Worker.pid).join(JobRow, JobRow.worker_id == Worker.id).where(JobRow.id.in_(job_ids))
    with database.read() as connection:
        return set(connection.execute(statement).scalars())


def stored(settings: Settings) -> list[NewJob]:
    """Store the photographs, for jobs that nobody was told of."""
    with open_image_store(settings.images_url).staging() as staging:
        new = [NewJob(new_id(), "misplaced.jpg", staging.add(one), len(one)) for one in PHOTOGRAPHS]
        staging.publish()
    return new


def states(jobs: Sequence[Job]) -> set[str]:
    return {str(job.state) for job in jobs}


def test_each_worker_does_its_own_queue_and_misplaced_messages_lose_nothing(
    start_worker: Start,
    producer: Producer,
    settings: Settings,
    database: Database,
    client: redis.Redis,
    sender: Celery,
) -> None:
    plain, vip = (
        start_worker(queue=queue, silent_after_s=300.0) for queue in ("", "vip")
    )  # none falls silent
    theirs = producer.submit(PHOTOGRAPHS * 15, queue="vip")
    others = producer.submit(PHOTOGRAPHS * 15)
    single = producer.submit(PHOTOGRAPHS[0], queue="vip")

    jobs = theirs.wait(timeout_s=150) + others.wait(timeout_s=150) + single.wait(timeout_s=150)

    assert {(job.state, job.attempt) for job in jobs} == {(JobState.SUCCEEDED, 1)}
    assert doers(database, [*theirs.job_ids, *single.job_ids]) == {vip.pid}
    assert doers(database, others.job_ids) == {plain.pid}
    assert vip.lines("it serves the queue vip only")

    # What comes to the wrong list is left alone there, and the sweeper publishes it to its own.
    misplaced = NewSubmission(new_id(), stored(settings), Lane.BULK, queue="vip")
    with database.begin() as connection:
        accept.add(connection, [misplaced])
    job_ids = [job.job_id for job in misplaced.jobs]
    publish(
        sender, [Unpublished(one, misplaced.submission_id, TASK_CLASSIFY_JOBS, Lane.BULK) for one in job_ids]
    )
    jobs = producer.submission(misplaced.submission_id).wait(timeout_s=150)
    assert {(job.state, job.attempt) for job in jobs} == {(JobState.SUCCEEDED, 1)}
    assert doers(database, job_ids) == {vip.pid}
    eventually(lambda: not client.llen(queue_name(Lane.BULK)), what="the misplaced message is done with")
    assert plain.terminate() == vip.terminate() == 0


def test_jobs_of_a_killed_worker_wait_for_one_of_its_queue_and_messages_come_back_to_it(
    start_worker: Start, producer: Producer, database: Database, client: redis.Redis
) -> None:
    plain, vip = start_worker(), start_worker(queue="vip", max_batch=4, image_s=0.05)
    submission = producer.submit(PHOTOGRAPHS * 100, queue="vip")
    eventually(lambda: vip.lines("batch"), what="it works")
    vip.kill()
    client.flushall()
    others = producer.submit(PHOTOGRAPHS)

    def returned() -> bool:
        return "running" not in states(producer.jobs(submission.job_ids))

    eventually(returned, 150, what="the other queue's worker takes its jobs back")
    eventually(lambda: client.llen(VIP) > 0, 150, what="and publishes them to their own queue")
    assert states(others.wait(timeout_s=150)) == {"succeeded"}
    assert "queued" in states(producer.jobs(submission.job_ids))
    assert plain.pid not in doers(database, submission.job_ids)

    second = start_worker(queue="vip")
    jobs = submission.wait(timeout_s=150)

    assert states(jobs) == {"succeeded"}
    assert doers(database, submission.job_ids) <= {vip.pid, second.pid}
    assert doers(database, others.job_ids) == {plain.pid}
    assert plain.process.poll() is None
    assert second.terminate() == plain.terminate() == 0
