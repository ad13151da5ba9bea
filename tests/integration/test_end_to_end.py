"""From a photograph to a row of labels, through real processes."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from alexq_producer import Producer
from alexq_schema.job import JobState
from tests.helpers.photos import encode, photo_crops
from tests.helpers.processes import WorkerProcess

StartWorker = Callable[..., WorkerProcess]


def test_one_photograph_is_classified(producer: Producer, start_worker: StartWorker) -> None:
    worker = start_worker()

    job = producer.classify(encode(photo_crops(1)[0], "JPEG"), timeout_s=30)

    assert job.state is JobState.SUCCEEDED
    assert len(job.predictions) == 5
    assert job.model is not None
    assert not job.model.trained
    assert worker.terminate() == 0


@pytest.mark.slow
def test_two_thousand_images_of_one_call_fill_the_batches(
    producer: Producer, start_worker: StartWorker
) -> None:
    worker = start_worker(max_batch=64)
    images = [encode(crop, "JPEG") for crop in photo_crops(64)]

    submission = producer.submit(images[number % 64] for number in range(2_000))
    jobs = submission.wait(timeout_s=120)

    assert [job.state for job in jobs] == [JobState.SUCCEEDED] * 2_000
    sizes = [line["size"] for line in worker.lines("batch")]
    assert sum(sizes) == 2_000
    assert len(sizes) < 80
    assert max(sizes) == 64
