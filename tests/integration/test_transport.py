"""How messages are taken from a real broker: many a round trip, each recorded in the same step."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
import redis
from celery import Celery
from kombu import Connection, Consumer, Queue
from kombu.exceptions import ChannelError
from redis.exceptions import OutOfMemoryError

from alexq_schema.celery_settings import publish
from alexq_schema.ids import new_id
from alexq_schema.messages import Unpublished
from alexq_schema.names import (
    IDS_PER_MESSAGE,
    QUEUE_CLASSIFY,
    TASK_CLASSIFY_IMAGE,
    TASK_CLASSIFY_JOBS,
    Lane,
)
from alexq_worker import transport
from tests.helpers.commands import workers_waiting
from tests.helpers.processes import WorkerProcess

StartWorker = Callable[..., WorkerProcess]

WORKERS_TRANSPORT = f"{transport.__name__}:Transport"


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """How messages are taken does not depend on the database."""
    return sqlite_url


class Taker:
    """A consumer on the worker's transport, with as much room as it is told."""

    def __init__(self, broker_url: str, room: int) -> None:
        self.connection = Connection(broker_url, transport=WORKERS_TRANSPORT)
        self.channel: Any = self.connection.channel()
        self.room = room
        self.channel.qos.room = lambda: self.room
        self.messages: list[Any] = []
        consumer = Consumer(self.channel, [Queue(QUEUE_CLASSIFY)], on_message=self.messages.append)
        consumer.consume()

    def take_once(self) -> list[Any]:
        """Return what one question brings; waits for it."""
        self.messages.clear()
        self.drain_until(lambda: bool(self.messages))
        return list(self.messages)

    def drain_until(self, is_done: Callable[[], bool]) -> None:
        """Let the event loop turn until something is so."""
        until = time.monotonic() + 60
        while not is_done():
            assert time.monotonic() < until, "the broker gave nothing"
            with suppress(socket.timeout):
                self.connection.drain_events(timeout=0.1)


@pytest.fixture
def taker(broker_url: str) -> Iterator[Callable[[int], Taker]]:
    """Make takers; their connections are closed at the end."""
    made: list[Taker] = []

    def make(room: int) -> Taker:
        made.append(Taker(broker_url, room))
        return made[-1]

    yield make
    for one in made:
        one.connection.close()


def send(sender: Celery, *sizes: int) -> None:
    """Publish a message for each of these numbers of jobs."""
    for size in sizes:
        kind = (new_id(), TASK_CLASSIFY_JOBS, Lane.INTERACTIVE)
        publish(sender, [Unpublished(new_id(), *kind) for _ in range(size)])


@pytest.mark.parametrize(
    ("sizes", "room", "taken"),
    [
        pytest.param([1] * 10, 4, 4, id="singles fill the room"),
        pytest.param([IDS_PER_MESSAGE] * 3, 10, 1, id="one large message fills it"),
        pytest.param([1, 1, IDS_PER_MESSAGE, 1], 3, 3, id="the last may be larger than what is left"),
        pytest.param([2, 2, 2, 2], 3, 2, id="jobs count, not messages"),
    ],
)
def test_no_more_is_taken_than_there_is_room_for(
    sizes: list[int],
    room: int,
    taken: int,
    sender: Celery,
    taker: Callable[[int], Taker],
    client: redis.Redis,
) -> None:
    send(sender, *sizes)

    messages = taker(room).take_once()

    assert len(messages) == client.hlen("unacked") == client.zcard("unacked_index") == taken
    assert client.llen(QUEUE_CLASSIFY) == len(sizes) - taken


def test_a_message_that_does_not_say_its_number_of_jobs_counts_as_the_largest(
    sender: Celery, taker: Callable[[int], Taker]
) -> None:
    """But for one of Celery's own door, which is one job."""
    for _ in range(3):
        sender.send_task(TASK_CLASSIFY_JOBS, kwargs={"job_ids": []}, queue=QUEUE_CLASSIFY)
    one = taker(IDS_PER_MESSAGE + 1)
    assert [len(one.take_once()), len(one.take_once())] == [2, 1]

    for _ in range(3):
        sender.send_task(TASK_CLASSIFY_IMAGE, kwargs={"image_base64": "AAAA"}, queue=QUEUE_CLASSIFY)
    assert len(one.take_once()) == 3


def test_one_answer_of_the_broker_is_bounded_in_bytes(sender: Celery, taker: Callable[[int], Taker]) -> None:
    large = "A" * (transport.TAKE_BYTES // 2)
    for _ in range(4):
        sender.send_task(TASK_CLASSIFY_IMAGE, kwargs={"image_base64": large}, queue=QUEUE_CLASSIFY)

    assert len(taker(100).take_once()) < 4


def test_a_full_consumer_takes_more_when_a_part_is_free(
    sender: Celery, taker: Callable[[int], Taker]
) -> None:
    send(sender, *[1] * 10)
    one = taker(4)
    one.channel.qos.refill = 3
    assert len(one.take_once()) == 4

    for one.room in (0, 2):
        assert not one.channel.qos.can_consume()
    one.room = 3
    assert len(one.take_once()) == 3
    one.room = 2
    assert len(one.take_once()) == 2, "it was not full"


def test_an_ack_forgets_the_message_and_closing_returns_the_rest(
    sender: Celery, taker: Callable[[int], Taker], client: redis.Redis
) -> None:
    send(sender, 1, 1, 1, 1)
    sent = [task_id(text) for text in client.lrange(QUEUE_CLASSIFY, 0, -1)]
    first, *others = (one := taker(3)).take_once()
    assert [message.headers["id"] for message in (first, *others)] == sent[:0:-1], "the oldest first"

    first.ack()
    one.connection.close()

    assert client.hlen("unacked") == client.zcard("unacked_index") == 0
    left = [task_id(text) for text in client.lrange(QUEUE_CLASSIFY, 0, -1)]
    assert set(left[1:]) == {message.headers["id"] for message in others}, "they are the next to be taken"
    assert left[0] == sent[0]


def test_a_waiting_consumer_is_woken_and_every_priority_is_served(
    sender: Celery, taker: Callable[[int], Taker], client: redis.Redis
) -> None:
    one = taker(10)
    one.drain_until(lambda: workers_waiting(client) == 1)

    for priority in (0, 3, 6, 9):
        sender.send_task(TASK_CLASSIFY_JOBS, kwargs={"job_ids": []}, queue=QUEUE_CLASSIFY, priority=priority)

    one.drain_until(lambda: len(one.messages) == 4)
    assert client.hlen("unacked") == 4


@pytest.mark.parametrize(
    "garbage", [b"no JSON", b'["a list"]', b"{}", b'{"body": "a", "properties": {"body_encoding": "base64"}}']
)
def test_what_is_no_message_is_dropped_and_harms_none(
    garbage: bytes, sender: Celery, taker: Callable[[int], Taker], client: redis.Redis
) -> None:
    send(sender, 1)
    client.lpush(QUEUE_CLASSIFY, garbage)
    send(sender, 1)
    one = taker(500)

    one.drain_until(lambda: len(one.messages) == 2)

    assert client.hlen("unacked") == client.zcard("unacked_index") == 2


def test_what_is_no_message_does_not_keep_others_from_coming_back(
    taker: Callable[[int], Taker], client: redis.Redis
) -> None:
    """It was taken by a process that died at once."""
    client.hset("unacked", mapping={"bad": b'[no JSON,"",""]'})
    client.zadd("unacked_index", {"bad": 1.0})

    taker(1).channel.qos.restore_visible(interval=1)

    assert client.hlen("unacked") == client.zcard("unacked_index") == 0


def test_a_broker_without_memory_still_gives_out_what_it_has(
    sender: Celery, taker: Callable[[int], Taker], client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "FULL_PAUSE_S", 3_600.0)
    send(sender, 1, 1)
    one = taker(10)
    client.config_resetstat()
    client.config_set("maxmemory", 1)
    try:
        assert len(one.take_once()) == 2
        for _ in range(20):  # then it cannot wait, and does not ask in a loop
            with suppress(socket.timeout, OutOfMemoryError):
                one.connection.drain_events(timeout=0.02)
        assert client.info("commandstats")["cmdstat_blmove"]["rejected_calls"] == 1
    finally:
        client.config_set("maxmemory", 0)
    one.channel._asks_from = 0.0  # the pause is over
    send(sender, 1)
    assert len(one.take_once()) == 1


def test_a_channel_consumes_one_queue(taker: Callable[[int], Taker]) -> None:
    with pytest.raises(ChannelError, match="needs another"):
        taker(1).channel.basic_consume("another", no_ack=False, callback=print, consumer_tag="another")


def task_id(text: bytes) -> str:
    return str(json.loads(text)["headers"]["id"])
