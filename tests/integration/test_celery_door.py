"""A plain Celery client, with no alexq code, gets its answer; one with alexq reads any job from SQL."""

from __future__ import annotations

import base64
import json
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from celery import Celery, states
from celery.result import AsyncResult

from alexq_producer import Producer
from alexq_schema.db import queries
from alexq_schema.db.session import Database
from alexq_schema.errors import UsageError
from alexq_schema.ids import new_id
from alexq_schema.images import FileImageStore
from alexq_schema.job import JobState
from alexq_schema.settings import Settings
from tests.helpers.photos import encode, photo_crops
from tests.helpers.processes import WorkerProcess

StartWorker = Callable[..., WorkerProcess]

PLAIN_CLIENT = """
import json, sys
from celery import Celery

url, images, timeout = sys.argv[1], json.load(sys.stdin), 60
app = Celery("someone", broker=url, backend=url)
sent = [app.send_task("alexq.classify_image", kwargs=kwargs, queue="alexq.classify") for kwargs in images]
for result in sent:
    try:
        print(json.dumps({"id": result.id, "job": result.get(timeout=timeout)}))
    except Exception as error:
        print(json.dumps({"id": result.id, "error": type(error).__name__, "text": str(error)}))
assert not any(name.startswith("alexq") for name in sys.modules)
"""


def ask(broker_url: str, *messages: dict[str, Any]) -> list[dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, "-c", PLAIN_CLIENT, broker_url],
        input=json.dumps(messages),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def photo() -> bytes:
    return encode(photo_crops(1)[0], "JPEG")


DIES_AT_ITS_FIRST_COMMIT = """
import os, signal, sys
from alexq_worker import app
from alexq_worker.table import SqlJobTable
SqlJobTable.commit = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
sys.exit(app.main())
"""


def base64_of(data: bytes) -> str:
    return base64.b64encode(data).decode()


def test_a_plain_celery_client_is_answered(
    start_worker: StartWorker, producer: Producer, broker_url: str
) -> None:
    start_worker()
    producer.submit(photo())
    key = next(iter(producer._images.root.glob("*/*"))).name  # type: ignore[attr-defined]

    inside, by_key, cut, no_base64, empty, no_image, unknown_key, odd = ask(
        broker_url,
        {"image_base64": base64_of(photo()), "source": "holiday.jpg"},
        {"image_key": key},
        {"image_base64": base64_of(photo()[:2_000])},
        {"image_base64": "***"},
        {"image_base64": ""},
        {},
        {"image_key": "0" * 64},
        {"image_url": "http://example.org/cat.jpg"},
    )

    assert inside["job"]["state"] == by_key["job"]["state"] == "succeeded"
    assert inside["job"]["source"] == "holiday.jpg"
    assert inside["job"]["job_id"] == inside["id"]  # the task id is the job id
    assert inside["job"]["predictions"] == by_key["job"]["predictions"]
    assert cut["job"]["state"] == "failed"
    assert cut["job"]["error"]["code"] == "image_truncated"
    assert (no_base64["error"], empty["error"]) == ("MessageError", "ImageEmptyError")
    assert (no_image["error"], unknown_key["error"]) == ("JobNotFoundError", "ImageNotFoundError")
    assert odd["error"] == "MessageError"
    assert "image_url" in odd["text"]


def test_a_job_that_was_left_behind_still_answers_its_celery_client(
    start_worker: StartWorker, broker_url: str, database: Database
) -> None:
    """The worker dies with the jobs in its hands; the next one answers under the same task ids."""
    app = Celery("someone", broker=broker_url, backend=broker_url, set_as_current=False)
    first = start_worker(program=DIES_AT_ITS_FIRST_COMMIT)
    first.process.send_signal(signal.SIGSTOP)
    first_ids = {
        app.send_task(
            "alexq.classify_image", kwargs={"image_base64": base64_of(photo())}, queue="alexq.classify"
        ).id
        for _ in range(3)
    }
    first.process.send_signal(signal.SIGCONT)
    results = [AsyncResult(task_id, app=app) for task_id in first_ids]

    assert first.process.wait(150) == -signal.SIGKILL
    with database.read() as connection:
        counts = queries.counts(connection)
    assert counts.keys() <= {JobState.QUEUED, JobState.RUNNING}
    assert counts[JobState.RUNNING] > 0
    start_worker()

    # A message that had no row yet comes back after a minute.
    assert [result.get(timeout=300)["state"] for result in results] == ["succeeded"] * 3


def test_one_bad_message_fails_nobody_who_comes_with_it(
    start_worker: StartWorker, broker_url: str, settings: Settings
) -> None:
    app = Celery("someone", broker=broker_url, backend=broker_url, set_as_current=False)
    damaged = "d" * 64
    path = FileImageStore(settings.data_dir / "images").path(damaged)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"not what the key says")
    kwargs: list[dict[str, str]] = [{"image_base64": base64_of(photo())} for _ in range(6)]
    kwargs[1:1] = [{"image_base64": "caf\u00e9"}, {"image_key": damaged}, {"image_base64": "AAAA"}]
    results = [app.send_task("alexq.classify_image", kwargs=one, queue="alexq.classify") for one in kwargs]

    start_worker()  # finds them all in the queue

    for result in results[1:4]:
        with pytest.raises(Exception, match=r"base64|damaged|not an image"):
            result.get(timeout=300)
    assert [result.get(timeout=300)["state"] for result in results[:1] + results[4:]] == ["succeeded"] * 6


DIES_BEFORE_THE_ROW = """
import os, signal, sys
from alexq_worker import app
from alexq_worker.door import Door
Door._accept = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
sys.exit(app.main())
"""
IMPATIENT = (
    "import sys; from alexq_worker import app, celery_app; celery_app.VISIBILITY_S = 2; sys.exit(app.main())"
)


def test_a_message_that_died_with_its_worker_before_it_had_a_row_is_answered(
    start_worker: StartWorker, broker_url: str
) -> None:
    app = Celery("someone", broker=broker_url, backend=broker_url, set_as_current=False)
    first = start_worker(program=DIES_BEFORE_THE_ROW)
    result = app.send_task(
        "alexq.classify_image", kwargs={"image_base64": base64_of(photo())}, queue="alexq.classify"
    )
    assert first.process.wait(150) == -signal.SIGKILL

    start_worker(program=IMPATIENT)

    assert result.get(timeout=300)["state"] == "succeeded"


def test_an_app_with_alexq_reads_any_job_from_sql(
    producer: Producer, settings: Settings, start_worker: StartWorker
) -> None:
    backend_url = f"alexq+{settings.database_url}"
    app = Celery("service", backend=backend_url, set_as_current=False)
    waiting = producer.submit(photo())
    good, cancelled = AsyncResult(str(waiting.job_ids[0]), app=app), producer.submit(photo()).job_ids[0]
    producer.cancel([cancelled])
    assert good.state == states.PENDING
    assert AsyncResult(str(cancelled), app=app).state == states.REVOKED

    start_worker()

    job = good.get(timeout=300)
    assert job["state"] == "succeeded"
    assert len(job["predictions"]) == 5
    assert good.date_done is not None
    assert AsyncResult(str(new_id()), app=app).state == states.PENDING
    assert AsyncResult("not-an-id", app=app).state == states.PENDING
    app.backend.process_cleanup()


def test_the_sql_result_backend_only_reads(settings: Settings) -> None:
    app = Celery("service", backend=f"alexq+{settings.database_url}", set_as_current=False)

    with pytest.raises(UsageError, match="only reads"):
        app.backend.store_result("id", {}, states.SUCCESS)
    with pytest.raises(UsageError, match="keeps the history"):
        app.backend.forget(str(new_id()))
