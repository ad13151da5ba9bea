"""Jobs that name a model version: refused where there is none, done by it where there is."""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path

import pytest
from celery import Celery
from sqlalchemy import select

from alexq_producer import Producer
from alexq_producer.client import Client
from alexq_schema.db.session import Database
from alexq_schema.db.tables import Job
from alexq_schema.errors import PinnedModelError
from alexq_schema.job import JobState
from alexq_schema.models import ModelStore
from alexq_schema.settings import Settings
from tests.helpers.gateway import JPEG, GatewayProcess
from tests.helpers.models import BASE, add_version, own_store
from tests.helpers.nursery import run_alexq
from tests.helpers.photos import encode, photo_crops
from tests.helpers.processes import WorkerProcess

GONE = "alexnet/never-made"


@pytest.fixture
def store(models_dir: Path, tmp_path: Path) -> ModelStore:
    return own_store(models_dir, tmp_path / "models")


@pytest.fixture
def settings(settings: Settings, store: ModelStore) -> Settings:
    return settings.model_copy(update={"models_dir": store.models_dir})


@pytest.fixture(scope="module")
def photo() -> bytes:
    return encode(photo_crops(1)[0])


def pins(database: Database) -> list[str | None]:
    with database.read() as connection:
        return list(connection.execute(select(Job.pinned_model).order_by(Job.id)).scalars())


def test_a_pin_is_refused_where_there_is_no_such_version(
    producer: Producer, gateway: GatewayProcess, photo: bytes, database: Database
) -> None:
    with Client(gateway.url) as client:
        for submit in (producer.submit, producer.classify, client.submit, client.classify):
            for ref in (GONE, "no slash", "../../etc"):
                with pytest.raises(PinnedModelError):
                    submit(photo, model=ref)  # type: ignore[operator]
    assert pins(database) == []


def test_a_pin_is_kept_whichever_way_a_job_comes(
    producer: Producer,
    gateway: GatewayProcess,
    photo: bytes,
    database: Database,
    settings: Settings,
    tmp_path: Path,
) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(photo)
    producer.submit([photo], model=BASE)
    with Client(gateway.url) as client:
        client.submit([photo, photo], model=BASE)
    with gateway.client() as http:
        assert http.post("/v1/jobs", params={"model": BASE}, headers=JPEG, content=photo).status_code == 202
    done = run_alexq(settings, "submit", str(path), "--model", BASE)
    assert done.returncode == 0, done.stderr
    producer.submit(photo)

    assert pins(database) == [BASE] * 5 + [None]


def test_a_worker_does_pinned_jobs_with_their_version(
    producer: Producer,
    start_worker: Callable[..., WorkerProcess],
    store: ModelStore,
    settings: Settings,
    photo: bytes,
) -> None:
    second, third = add_version(store, "second"), add_version(store, "third", crop=72)
    worker = start_worker()
    handed = {ref: producer.submit([photo] * 5, model=ref) for ref in (second, None, third, BASE)}
    for ref, submission in handed.items():
        jobs = submission.wait(timeout_s=120)
        assert {(job.state, job.attempt) for job in jobs} == {(JobState.SUCCEEDED, 1)}
        assert {f"{job.model.name}/{job.model.version}" for job in jobs if job.model} == {ref or BASE}

    task = {"image_base64": base64.b64encode(photo).decode()}
    someone = Celery("someone", broker=settings.broker_url, backend=settings.broker_url)
    sent = [
        someone.send_task("alexq.classify_image", kwargs={**task, "model": ref}, queue="alexq.classify")
        for ref in (second, GONE)
    ]
    done, gone = [one.get(timeout=200) for one in sent]
    someone.close()
    assert done["model"]["version"] == "second"
    # Nobody could know when it was accepted.
    assert (gone["state"], gone["attempt"], gone["error"]["code"]) == ("failed", 1, PinnedModelError.code)
    assert worker.terminate() == 0
