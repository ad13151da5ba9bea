"""A worker that is there and does not get on: it says so, ends, and its jobs are done by another."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from celery import Celery
from sqlalchemy import select

from alexq_producer import Producer
from alexq_schema.db.session import Database
from alexq_schema.db.tables import Worker
from alexq_schema.job import JobState
from alexq_schema.names import QUEUE_CLASSIFY, Lane
from alexq_schema.settings import Settings
from tests.helpers.eventually import eventually
from tests.helpers.photos import distinct, encode, photo_crops
from tests.helpers.processes import WorkerProcess

StartWorker = Callable[..., WorkerProcess]

MAIN = "\nimport sys; from alexq_worker.app import main; sys.exit(main())"

HANGS = """
import time
from alexq_worker.inference.engine import Engine
classify = Engine.classify
calls = []
def hangs(self, images):
    calls.append(1)
    if len(calls) > 3:
        time.sleep(3600)  # as a call to a device whose driver has stopped answering
    return classify(self, images)
Engine.classify = hangs
"""

BREAKS = """
from alexq_worker.inference.engine import Engine
from alexq_schema.errors import EngineError
classify = Engine.classify
calls = []
def breaks(self, *images):
    calls.append(1)
    if len(calls) > 3:
        raise EngineError("CUDA error: an illegal memory access was encountered")  # and every call after it
    return classify(self, *images)
def check(self):
    raise EngineError("CUDA error: an illegal memory access was encountered")
Engine.classify, Engine.check = breaks, check
"""

NO_ROOM = """
import resource
# The log of the database will not fit.
resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, resource.RLIM_INFINITY))
"""


def photo() -> bytes:
    return encode(photo_crops(1)[0], "JPEG")


def reason_of(worker: WorkerProcess, database: Database) -> str | None:
    with database.read() as connection:
        statement = select(Worker.unhealthy_reason).where(Worker.pid == worker.pid)
        return connection.execute(statement).scalar_one()


def health_of(worker: WorkerProcess) -> dict[str, object]:
    file = Path(str(worker.settings.health_file).replace("{pid}", str(worker.pid)))
    eventually(file.exists)
    health: dict[str, object] = json.loads(file.read_text())
    return health


@pytest.mark.parametrize(
    ("fault", "told"), [(HANGS, "the device with a batch"), (BREAKS, "illegal memory access")]
)
def test_a_worker_whose_device_hangs_or_breaks_ends_and_another_does_its_jobs(
    producer: Producer, start_worker: StartWorker, database: Database, fault: str, told: str
) -> None:
    unwell = start_worker(program=fault + MAIN, unhealthy_after_s=8.0, max_batch=4)
    assert health_of(unwell)["is_healthy"] is True
    submission = producer.submit(distinct([photo()], 60))

    assert unwell.process.wait(150) == 70
    assert health_of(unwell)["is_healthy"] is False
    assert told in str(health_of(unwell)["reason"])
    assert told in str(reason_of(unwell, database))
    done = submission.counts().get(JobState.SUCCEEDED, 0)
    well = start_worker()
    jobs = submission.wait(timeout_s=150)

    assert {job.state for job in jobs} == {JobState.SUCCEEDED}
    assert {job.errors for job in jobs} == {0}, "no image was blamed"
    assert 0 < sum(job.crashes for job in jobs) <= 60 - done, "what was done is not suspected"
    assert well.terminate() == 0


def test_a_worker_whose_consumer_has_stopped_ends_and_the_queue_goes_on(
    producer: Producer, start_worker: StartWorker, settings: Settings, database: Database
) -> None:
    deaf = start_worker(unhealthy_after_s=8.0)
    app = Celery("operator", broker=settings.broker_url, set_as_current=False)
    # A broadcast reaches who listens at that moment: Celery calls a worker ready just before it subscribes.
    eventually(
        lambda: app.control.cancel_consumer(QUEUE_CLASSIFY, reply=True, timeout=2),
        what="the worker stops consuming",
    )
    app.close()
    submission = producer.submit([photo()] * 3, lane=Lane.INTERACTIVE)

    assert deaf.process.wait(150) == 70
    assert "deaf" in str(reason_of(deaf, database))
    start_worker()
    assert {(job.state, job.crashes) for job in submission.wait(timeout_s=150)} == {(JobState.SUCCEEDED, 0)}


def test_a_worker_without_disk_space_ends_and_loses_nothing(
    producer: Producer, start_worker: StartWorker, sqlite_url: str, settings: Settings
) -> None:
    if settings.database_url != sqlite_url:
        pytest.skip("only SQLite writes on the worker's own disk")
    full = start_worker(program=NO_ROOM + MAIN, unhealthy_after_s=8.0, max_batch=4)
    submission = producer.submit(distinct([photo()], 200))

    assert full.process.wait(150) == 70
    assert "free space" in str(health_of(full)["reason"])
    start_worker()
    assert {job.state for job in submission.wait(timeout_s=150)} == {JobState.SUCCEEDED}
