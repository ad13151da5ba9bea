"""What a real worker asks of a real broker for each message, and tells those who watch."""

from __future__ import annotations

import base64
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import redis
from celery import Celery

from alexq_producer import Producer
from alexq_schema.ids import new_id
from alexq_schema.job import JobState
from alexq_schema.names import QUEUE_CLASSIFY, QUEUES, TASK_CLASSIFY_IMAGE
from tests.helpers.commands import Commands
from tests.helpers.eventually import eventually
from tests.helpers.photos import encode, photo_crops
from tests.helpers.processes import WorkerProcess

StartWorker = Callable[..., WorkerProcess]

OWN_COMMANDS_PER_100 = 120
"""Commands of clients, scripts' not counted, beside waiting; kombu alone needs more than 500."""


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """What the broker sees does not depend on the database."""
    return sqlite_url


def test_a_single_image_costs_a_fraction_of_a_command(
    producer: Producer, start_worker: StartWorker, broker_url: str, client: redis.Redis
) -> None:
    """And no message leaves a queue but by the script that records it."""
    image = encode(photo_crops(1)[0], "JPEG")
    submissions = [producer.submit(image) for _ in range(100)]
    assert sum(map(client.llen, QUEUES)) == 100, "each is a message of its own"

    with Commands(broker_url) as commands:
        start_worker()
        for submission in submissions:
            assert [job.state for job in submission.wait(timeout_s=150)] == [JobState.SUCCEEDED]
        eventually(lambda: client.hlen("unacked") == sum(map(client.llen, QUEUES)) == 0)

    pops = {"BRPOP", "RPOP", "BLPOP", "LPOP", "BLMPOP", "LMPOP", "LMOVE", "RPOPLPUSH", "LREM", "LTRIM", "DEL"}
    by_clients = [seen for seen in commands.seen if not seen.is_script]
    assert not [seen for seen in by_clients if seen.name in pops and seen.touches(*QUEUES)]
    assert {seen.name for seen in commands.seen if seen.touches(*QUEUES) and seen.name in pops} == {"RPOP"}
    recorded = Counter(
        seen.name for seen in commands.seen if seen.is_script and seen.touches("unacked", "unacked_index")
    )
    sent = 100 + sum(seen.name == "LPUSH" for seen in by_clients)  # the sweeper's, where all is slow
    assert recorded == {"HSET": sent, "ZADD": sent}, "all were taken, and recorded"
    # Not that the worker lives, which it says the more often the longer all of this takes.
    writes = Counter(seen.name for seen in by_clients if "worker.heartbeat" not in seen.arguments)
    cost = sum(writes[name] for name in ("EVAL", "HSET", "ZADD", "ZREM", "HDEL", "MULTI", "EXEC", "PUBLISH"))
    assert cost <= OWN_COMMANDS_PER_100, writes


def test_who_watches_sees_each_step_of_every_task(
    sender: Celery, start_worker: StartWorker, broker_url: str
) -> None:
    """To the last one before the worker ends, although events travel together."""
    worker = start_worker()
    seen: list[dict[str, Any]] = []
    with sender.connection() as connection:
        receiver = sender.events.Receiver(connection, handlers={"*": seen.append})
        watcher = threading.Thread(target=receiver.capture, kwargs={"wakeup": False}, daemon=True)
        watcher.start()
        eventually(lambda: bool(seen), what="the worker is heard")
        image = base64.b64encode(encode(photo_crops(1)[0], "JPEG")).decode()
        tasks = [str(new_id()) for _ in range(3)]
        for task in tasks:
            sender.send_task(
                TASK_CLASSIFY_IMAGE, kwargs={"image_base64": image}, queue=QUEUE_CLASSIFY, task_id=task
            )

        def steps() -> list[list[str]]:
            return [[event["type"] for event in seen if event.get("uuid") == task] for task in tasks]

        with Celery(broker=broker_url, backend=broker_url, set_as_current=False) as answered:
            assert [answered.AsyncResult(task).get(timeout=300)["state"] for task in tasks] == [
                "succeeded"
            ] * 3
        assert worker.terminate() == 0

        eventually(lambda: steps() == [["task-received", "task-started", "task-succeeded"]] * 3)
        receiver.should_stop = True
        watcher.join(60)
