"""Identical images in flight are computed once, by real workers on both databases; and none is lost."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from alexq_producer import Producer
from alexq_schema.db.session import Database
from alexq_schema.job import Job, JobState
from tests.helpers.eventually import eventually
from tests.helpers.photos import encode, photo_crops
from tests.helpers.processes import WorkerProcess

StartWorker = Callable[..., WorkerProcess]

HOLDS = """
import sys, time
from pathlib import Path
from alexq_worker.inference.engine import Engine
classify = Engine.classify
def held(self, images):
    while Path({hold!r}).exists():
        time.sleep(0.02)
    return classify(self, images)
Engine.classify = held
from alexq_worker.app import main
sys.exit(main())
"""


@pytest.fixture
def hold(tmp_path: Path) -> Path:
    """A file: while it is there, the device of a worker that runs ``HOLDS`` is busy."""
    return tmp_path / "hold"


def counted(worker: WorkerProcess) -> tuple[int, int]:
    """Return how many images went through the model, and how many jobs another's forward answered."""
    lines = worker.lines("batch")
    return sum(line["size"] for line in lines), sum(line["shared"] for line in lines)


def answers(jobs: list[Job]) -> set[tuple[tuple[int, float], ...]]:
    return {tuple((one.index, one.probability) for one in job.predictions) for job in jobs}


def test_a_hundred_jobs_of_one_image_are_computed_a_few_times_and_answered_a_hundred(
    producer: Producer, start_worker: StartWorker
) -> None:
    one, other = (encode(crop) for crop in photo_crops(2))
    submission = producer.submit([one] * 99 + [other])
    worker = start_worker()
    jobs = submission.wait(timeout_s=150)

    assert {(job.state, job.attempt) for job in jobs} == {(JobState.SUCCEEDED, 1)}
    assert [job.job_id for job in jobs] == list(submission.job_ids)
    assert len(answers(jobs[:99])) == 1
    assert answers(jobs[:99]) != answers(jobs[99:])
    eventually(lambda: sum(counted(worker)) == 100, what="every batch is logged")
    computed, _ = counted(worker)
    assert computed <= 10


def test_a_worker_killed_while_followers_wait_loses_none(
    producer: Producer, start_worker: StartWorker, hold: Path
) -> None:
    image = encode(photo_crops(1)[0])
    first = start_worker(program=HOLDS.format(hold=str(hold)), unhealthy_after_s=600.0)
    hold.touch()
    submission = producer.submit([image] * 4)
    eventually(lambda: submission.counts().get(JobState.RUNNING) == 4, what="they are claimed")

    first.kill()
    assert first.process.wait(60) == -signal.SIGKILL
    hold.unlink()
    start_worker()
    jobs = submission.wait(timeout_s=150)

    assert {(job.state, job.crashes, job.attempt) for job in jobs} == {(JobState.SUCCEEDED, 1, 2)}
    assert len(answers(jobs)) == 1


def test_cancelling_the_first_of_an_image_leaves_the_others_their_answer(
    producer: Producer, start_worker: StartWorker, hold: Path, database: Database
) -> None:
    image = encode(photo_crops(1)[0])
    worker = start_worker(program=HOLDS.format(hold=str(hold)), unhealthy_after_s=600.0)
    hold.touch()
    submission = producer.submit([image] * 5)
    eventually(lambda: submission.counts().get(JobState.RUNNING) == 5, what="they are claimed")

    leader, *followers = submission.job_ids
    assert set(producer.cancel([leader, followers[-1]])) == {leader, followers[-1]}
    hold.unlink()
    jobs = submission.wait(timeout_s=150)

    assert [job.state for job in jobs] == [
        JobState.CANCELLED,
        *[JobState.SUCCEEDED] * 3,
        JobState.CANCELLED,
    ]
    eventually(lambda: counted(worker) == (1, 4), what="the batch is logged")
    assert worker.terminate() == 0


def test_a_bad_image_fails_each_of_its_jobs_under_its_own_name(
    producer: Producer, start_worker: StartWorker, tmp_path: Path
) -> None:
    names = [tmp_path / f"{name}.gif" for name in ("first", "second", "third")]
    for name in names:
        name.write_bytes(b"GIF89a, cut")
    submission = producer.submit(names)
    start_worker()
    jobs = submission.wait(timeout_s=150)

    assert [job.source for job in jobs] == list(map(str, names))
    assert {(job.state, job.error and job.error.code) for job in jobs} == {
        (JobState.FAILED, "image_truncated")
    }
