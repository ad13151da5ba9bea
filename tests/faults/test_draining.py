"""A worker that is told to stop finishes what it holds, and is not taken for dead meanwhile."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Callable

from alexq_producer import Producer
from alexq_schema.images.files import FileImageStore
from alexq_schema.job import JobState
from alexq_schema.settings import Settings
from alexq_worker.sweeper import SWEEP_EVERY_S
from tests.helpers.eventually import eventually
from tests.helpers.photos import encode, photo_crops
from tests.helpers.processes import WorkerProcess

StartWorker = Callable[..., WorkerProcess]
SILENT_AFTER_S = 5.0


def test_a_worker_that_drains_for_longer_than_the_silence_limit_keeps_its_jobs(
    producer: Producer, settings: Settings, start_worker: StartWorker
) -> None:
    images = [encode(crop, "JPEG") for crop in photo_crops(4)]
    submission = producer.submit(images)
    path = FileImageStore(settings.data_dir / "images").path(hashlib.sha256(images[0]).hexdigest())
    path.unlink()
    os.mkfifo(path)  # whoever reads this image waits until somebody writes it

    how = {"heartbeat_s": 0.2, "silent_after_s": SILENT_AFTER_S, "stop_grace_s": 90.0}
    first = start_worker(**how)
    eventually(lambda: submission.counts().get(JobState.SUCCEEDED, 0) == 3, what="one image is waited for")
    second = start_worker(**how)
    ended = []
    ending = threading.Thread(target=lambda: ended.append(first.terminate(timeout_s=120)))
    ending.start()
    time.sleep(SILENT_AFTER_S + 2 * SWEEP_EVERY_S)  # the other has looked for silent ones since
    assert not ended, "it waits for the image"
    path.write_bytes(images[0])
    ending.join()

    assert ended == [0]
    jobs = submission.wait(timeout_s=150)
    assert {(job.state, job.attempt) for job in jobs} == {(JobState.SUCCEEDED, 1)}
    assert not second.lines_with("took")
