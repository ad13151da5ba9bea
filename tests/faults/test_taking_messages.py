"""A worker dies, or is stopped, at each place between the queue and its own hands: no message is lost.

Messages of Celery's own door: until they have a row, nothing but the broker knows of them.
"""

from __future__ import annotations

import base64
import signal
from collections.abc import Callable, Iterator

import pytest
import redis
from celery import Celery
from celery.result import AsyncResult

from alexq_schema.names import QUEUE_CLASSIFY
from tests.helpers.commands import workers_waiting
from tests.helpers.eventually import eventually
from tests.helpers.photos import encode, photo_crops
from tests.helpers.processes import WorkerProcess

StartWorker = Callable[..., WorkerProcess]

SECOND_LIST = f"{QUEUE_CLASSIFY}\x06\x163"
"""Where the broker puts the message with which it wakes a worker."""

SUFFERS_WHEN_WOKEN = """
import os, sys
from alexq_worker import app
from alexq_worker.transport import Channel
answer_to = Channel._answer
def answer(channel, command, options):
    answer = answer_to(channel, command, options)
    if answer and command == "BLMOVE":
        os.kill(os.getpid(), {signal})
    return answer
Channel._answer = answer
sys.exit(app.main())
"""
DIES_WITH_ALL_TAKEN = """
import os, signal, sys
from alexq_worker import app
from alexq_worker.transport import Channel
Channel._hand_out = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
sys.exit(app.main())
"""
IMPATIENT = (
    "import sys; from alexq_worker import app, celery_app; celery_app.VISIBILITY_S = 2; sys.exit(app.main())"
)


@pytest.fixture
def database_url(postgres_url: str) -> str:
    """The database has not heard of these messages; a stopped worker may hold SQLite's one write lock."""
    return postgres_url


@pytest.fixture
def someone(broker_url: str) -> Iterator[Celery]:
    """The app of a service without alexq."""
    app = Celery("someone", broker=broker_url, backend=broker_url, set_as_current=False)
    yield app
    app.backend.result_consumer.stop()
    app.backend.client.close()
    app.close()


def send(someone: Celery) -> AsyncResult:
    """Send an image."""
    image = base64.b64encode(encode(photo_crops(1)[0], "JPEG")).decode()
    return someone.send_task("alexq.classify_image", kwargs={"image_base64": image}, queue=QUEUE_CLASSIFY)


@pytest.mark.parametrize("suffered", [signal.SIGKILL, signal.SIGSTOP])
def test_the_message_that_woke_a_worker_is_anyones(
    suffered: signal.Signals, start_worker: StartWorker, someone: Celery, client: redis.Redis
) -> None:
    first = start_worker(program=SUFFERS_WHEN_WOKEN.format(signal=int(suffered)))
    eventually(lambda: workers_waiting(client) == 2, what="it waits for a message of either lane")
    result = send(someone)
    eventually(lambda: client.llen(SECOND_LIST) == 1, what="the broker woke it")
    if suffered == signal.SIGKILL:
        assert first.process.wait(150) == -signal.SIGKILL
    assert client.llen(QUEUE_CLASSIFY) == client.hlen("unacked") == 0

    start_worker()

    assert result.get(timeout=300)["state"] == "succeeded"
    first.process.send_signal(signal.SIGCONT)
    eventually(lambda: client.hlen("unacked") == client.llen(SECOND_LIST) == 0, 150)


def test_messages_that_were_taken_and_not_looked_at_come_back(
    start_worker: StartWorker, someone: Celery, client: redis.Redis
) -> None:
    results = [send(someone) for _ in range(5)]
    first = start_worker(program=DIES_WITH_ALL_TAKEN, is_waited_for=False)  # or it is dead before it is seen
    assert first.process.wait(150) == -signal.SIGKILL
    assert client.hlen("unacked") == client.zcard("unacked_index") == 5

    start_worker(program=IMPATIENT)

    assert [result.get(timeout=300)["state"] for result in results] == ["succeeded"] * 5
