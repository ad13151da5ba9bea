"""A service goes away and comes back: work waits, nothing is lost, nothing is blamed on the caller."""

from __future__ import annotations

import base64
import subprocess
import sys
import time
from collections.abc import Callable

import pytest
from celery import Celery
from celery.result import AsyncResult

from alexq.stack.environment import environment
from alexq_producer import Producer
from alexq_schema.job import JobState
from alexq_schema.settings import Settings
from tests.helpers.eventually import eventually
from tests.helpers.photos import distinct, encode, photo_crops
from tests.helpers.postgres import PostgresServer
from tests.helpers.processes import WorkerProcess, stopped_server

StartWorker = Callable[..., WorkerProcess]


@pytest.fixture
def database_url(postgres_url: str) -> str:
    """An outage needs a database that is a server."""
    return postgres_url


def photo() -> bytes:
    return encode(photo_crops(1)[0], "JPEG")


def test_jobs_and_messages_wait_out_a_database_outage(
    producer: Producer,
    start_worker: StartWorker,
    settings: Settings,
    postgres_server: PostgresServer,
) -> None:
    worker = start_worker(image_s=0.01)
    app = Celery("client", broker=settings.broker_url, backend=settings.broker_url, set_as_current=False)
    submission = producer.submit(distinct([photo()], 300))
    eventually(lambda: worker.lines("batch"))

    with postgres_server.outage(settings.database_url):
        image = base64.b64encode(photo()).decode()
        sent = [
            app.send_task("alexq.classify_image", kwargs={"image_base64": image}, queue="alexq.classify").id
            for _ in range(5)
        ]
        time.sleep(3)  # the length of the outage

    results = [AsyncResult(task_id, app=app) for task_id in sent]
    assert [result.get(timeout=300)["state"] for result in results] == ["succeeded"] * 5
    assert {job.state for job in submission.wait(timeout_s=150)} == {JobState.SUCCEEDED}
    assert worker.terminate() == 0
    app.close()


def test_a_worker_that_cannot_show_itself_takes_no_messages_and_ends(
    settings: Settings, postgres_server: PostgresServer, producer: Producer
) -> None:
    """The database goes away between the model's warm-up and the first message."""
    program = (
        "import sys\n"
        "from alexq_schema.settings import Settings\n"
        "from alexq_worker.app import Process\n"
        "process = Process(Settings.connected())\n"
        "print('warm', flush=True)\n"
        "sys.stdin.readline()\n"
        "sys.exit(process.run())\n"
    )
    submission = producer.submit([photo()] * 3)
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        env=environment(settings),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "warm\n"
    with postgres_server.outage(settings.database_url):
        process.communicate("go\n", timeout=300)

    assert process.returncode == 70
    assert submission.counts() == {JobState.QUEUED: 3}


def test_a_worker_stops_in_time_while_the_broker_hangs(
    settings: Settings, start_worker: StartWorker, broker_url: str
) -> None:
    worker = start_worker(stop_grace_s=5.0)
    with stopped_server(broker_url):
        assert worker.terminate() == 0  # the broker hangs until then
