"""Passwords never reach a log, an error or a command's output, whatever goes wrong."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import redis
import sqlalchemy

from alexq_producer import Producer
from alexq_schema.errors import DatabaseUnavailableError
from alexq_schema.job import JobState
from alexq_schema.settings import Settings
from tests.helpers.eventually import eventually
from tests.helpers.nursery import run_alexq
from tests.helpers.photos import encode, photo_crops
from tests.helpers.postgres import PostgresServer
from tests.helpers.processes import WorkerProcess, stopped_server

CANARY = "canary-s3cr3t"


@pytest.fixture
def database_url(postgres_url: str) -> str:
    """A database whose URL carries a password (which the test's server does not ask for)."""
    return sqlalchemy.make_url(postgres_url).set(password=CANARY).render_as_string(hide_password=False)


def commands(settings: Settings) -> str:
    """Return everything that commands print, on both streams."""
    shown = ""
    for arguments in (["doctor"], ["jobs", "list"], ["submit", __file__], ["migrate"], ["up"]):
        done = run_alexq(settings, *arguments)
        shown += done.stdout + done.stderr
    return shown


def test_no_password_is_ever_shown(
    producer: Producer,
    settings: Settings,
    start_worker: Callable[..., WorkerProcess],
    postgres_server: PostgresServer,
) -> None:
    password = redis.Redis.from_url(settings.broker_url).connection_pool.connection_kwargs["password"]
    worker = start_worker()
    photo = encode(photo_crops(1)[0], "JPEG")
    submission = producer.submit([photo] * 5)
    assert {job.state for job in submission.wait(timeout_s=150)} == {JobState.SUCCEEDED}
    with postgres_server.outage(settings.database_url):
        with pytest.raises(DatabaseUnavailableError) as refused:
            producer.submit(photo)
        eventually(lambda: "does not answer" in worker.log.read_text(), 150)
    with stopped_server(settings.broker_url):
        eventually(lambda: "Timeout" in worker.log.read_text(), 150, what="the broker's silence is noticed")
    second = producer.submit(photo)
    second.wait(timeout_s=150)
    nowhere = settings.model_copy(
        update={
            "database_url": f"postgresql://someone:{CANARY}@127.0.0.1:9/none",
            "broker_url": f"redis://:{CANARY}@127.0.0.1:9/0",
        }
    )
    shown = worker.log.read_text() + str(refused.value) + commands(nowhere) + repr(nowhere)
    assert "does not answer" in shown
    for secret in (CANARY, password):
        assert secret not in shown
    assert worker.terminate() == 0
