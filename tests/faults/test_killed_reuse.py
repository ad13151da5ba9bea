"""A worker dies among jobs of which past results answer some: none is lost, none is answered twice."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from alexq_producer import Producer
from alexq_schema.job import Job, JobState
from tests.helpers.eventually import eventually
from tests.helpers.held import MAIN, Held
from tests.helpers.photos import distinct, encode, photo_crops
from tests.helpers.processes import WorkerProcess

EACH = 48
"""Jobs that a past result answers, and as many whose images are new."""


def said(job: Job) -> tuple[list[int], list[float]]:
    return [one.index for one in job.predictions], [one.probability for one in job.predictions]


def test_jobs_that_reuse_past_results_survive_the_worker_that_has_them(
    producer: Producer, start_worker: Callable[..., WorkerProcess], tmp_path: Path
) -> None:
    photos = [encode(crop, "JPEG") for crop in photo_crops(4)]
    held = Held(tmp_path, after_jobs=EACH)
    first = start_worker(program=held.program + MAIN, max_batch=8, unhealthy_after_s=600.0)
    past = producer.submit(photos, reuse=True).wait(timeout_s=150)
    known = [photos[number % 4] for number in range(EACH)]
    images = [image for pair in zip(known, distinct(photos, EACH), strict=True) for image in pair]
    submission = producer.submit(images, reuse=True)
    eventually(held.is_held, what="it has jobs in hand")

    first.kill()
    before = {job.job_id: job for job in producer.jobs(submission.job_ids) if job.state is JobState.SUCCEEDED}
    assert 0 < len(before) < 2 * EACH
    assert any(job.reused_from for job in before.values())
    second = start_worker(max_batch=8)
    jobs = submission.wait(timeout_s=200)

    assert [job.job_id for job in jobs] == list(submission.job_ids)
    assert {job.state for job in jobs} == {JobState.SUCCEEDED}
    assert {job.job_id: job for job in jobs if job.job_id in before} == before, "an answer stays"
    assert {(job.attempt, job.crashes) for job in jobs} == {(1, 0), (2, 1)}
    for place, job in enumerate(jobs):
        original = past[place // 2 % 4]
        assert job.reused_from in ({None, original.job_id} if place % 2 == 0 else {None})
        assert said(job)[0] == said(original)[0]
        assert said(job)[1] == pytest.approx(said(original)[1], abs=1e-4)
    again = producer.submit(known, reuse=True).wait(timeout_s=150)
    assert {job.reused_from for job in again} <= {job.job_id for job in [*past, *jobs]}
    assert second.terminate() == 0
