"""Messages of which no job can be made: refused once, recorded, never retried, and harmless."""

from __future__ import annotations

import base64
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis
from sqlalchemy import select

from alexq_producer import Producer
from alexq_schema.db.session import Database
from alexq_schema.db.tables import RefusedMessage
from alexq_schema.ids import new_id
from alexq_schema.job import JobState
from alexq_schema.names import QUEUE_CLASSIFY, TASK_CLASSIFY_IMAGE, TASK_CLASSIFY_JOBS
from alexq_schema.settings import Settings
from tests.helpers.eventually import eventually
from tests.helpers.photos import encode, photo_crops
from tests.helpers.processes import WorkerProcess

StartWorker = Callable[..., WorkerProcess]


class Explosive:
    """Writes a file where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = str(path)

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (self._path, "w")


def message(task: str, kwargs: dict[str, Any], *, task_id: str, **changes: Any) -> bytes:
    """Return what Celery would put on the queue, but for ``changes``."""
    body = json.dumps([[], kwargs, {}]).encode()
    made = {
        "body": base64.b64encode(body).decode(),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {"lang": "py", "task": task, "id": task_id, "root_id": task_id, "retries": 0},
        "properties": {
            "correlation_id": task_id,
            "delivery_mode": 2,
            "delivery_info": {"exchange": "", "routing_key": QUEUE_CLASSIFY},
            "priority": 0,
            "body_encoding": "base64",
            "delivery_tag": str(new_id()),
        },
    }
    return json.dumps({**made, **changes}).encode()


@pytest.fixture
def database_url(postgres_url: str) -> str:
    """What is refused does not depend on the database."""
    return postgres_url


def test_bad_messages_are_refused_once_and_recorded_and_the_worker_goes_on(
    start_worker: StartWorker,
    producer: Producer,
    database: Database,
    broker_url: str,
    settings: Settings,
    tmp_path: Path,
) -> None:
    trap = tmp_path / "unpickled"
    outside = tmp_path / "secret.jpg"
    outside.write_bytes(encode(photo_crops(1)[0], "JPEG"))
    some_id = str(new_id())
    bad = {
        "version": message(TASK_CLASSIFY_JOBS, {"version": 99, "job_ids": [some_id]}, task_id="version"),
        "shape": message(TASK_CLASSIFY_JOBS, {"version": 1, "ids": [some_id]}, task_id="shape"),
        "path": message(TASK_CLASSIFY_IMAGE, {"image_key": f"../../{outside.name}"}, task_id=some_id),
        "task": message("os.system", {"command": "true"}, task_id="task"),
        "pickle": message(
            TASK_CLASSIFY_JOBS,
            {},
            task_id="pickle",
            **{
                "body": base64.b64encode(pickle.dumps(Explosive(trap))).decode(),
                "content-type": "application/x-python-serialize",
                "content-encoding": "binary",
            },
        ),
        "no JSON": message(TASK_CLASSIFY_JOBS, {}, task_id="no JSON", body=base64.b64encode(b"{").decode()),
    }
    worker = start_worker()
    client = redis.Redis.from_url(broker_url)
    for text in bad.values():
        client.lpush(QUEUE_CLASSIFY, text)

    def recorded() -> dict[str, str]:
        with database.read() as connection:
            rows = connection.execute(select(RefusedMessage.__table__)).all()
        return {row.message_id: row.detail for row in rows}

    eventually(lambda: len(recorded()) == len(bad), what="all are recorded")
    assert "version" in recorded()["version"]
    assert "image_key" in recorded()[some_id]
    assert "no task of this name" in recorded()["task"]
    assert "pickle" in recorded()["pickle"]
    assert "cannot be decoded" in recorded()["no JSON"]
    assert not trap.exists()
    submission = producer.submit(encode(photo_crops(1)[0], "JPEG"))
    assert [job.state for job in submission.wait(timeout_s=150)] == [JobState.SUCCEEDED]
    assert client.llen(QUEUE_CLASSIFY) == 0
    eventually(lambda: client.hlen("unacked") == 0)
    client.close()
    assert len(recorded()) == len(bad)
    assert worker.terminate() == 0
