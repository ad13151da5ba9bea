"""Crops, labels, threshold and temperature of a job: kept whichever way it comes, and done."""

from __future__ import annotations

import base64
import io
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from sqlalchemy import select

from alexq_producer import Producer
from alexq_producer.client import Client
from alexq_schema.db.session import Database
from alexq_schema.db.tables import Job
from alexq_schema.errors import IdempotencyKeyReusedError, RequestError, UsageError
from alexq_schema.job import JobState
from alexq_schema.settings import Settings
from tests.helpers.gateway import JPEG, GatewayProcess
from tests.helpers.nursery import run_alexq
from tests.helpers.photos import encode, photo_crops
from tests.helpers.processes import WorkerProcess

ALL = {"crops": 10, "top_k": 20, "min_probability": 0.001, "temperature": 0.5, "reuse": True}


@pytest.fixture(scope="module")
def photo() -> bytes:
    return encode(photo_crops(1)[0])


def kept(database: Database) -> list[Any]:
    with database.read() as connection:
        return list(connection.execute(select(Job.options).order_by(Job.id)).scalars())


def packed(photo: bytes) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        info = tarfile.TarInfo("photo.jpg")
        info.size = len(photo)
        tar.addfile(info, io.BytesIO(photo))
    return file.getvalue()


def test_options_are_kept_whichever_way_a_job_comes(
    producer: Producer,
    gateway: GatewayProcess,
    photo: bytes,
    database: Database,
    settings: Settings,
    tmp_path: Path,
) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(photo)
    producer.submit([photo], **ALL)  # type: ignore[arg-type]
    with Client(gateway.url) as client:
        client.submit([photo], **ALL)  # type: ignore[arg-type]
    with gateway.client() as http:
        asked = [
            http.post("/v1/jobs", params=ALL, headers=JPEG, content=photo),
            http.post("/v1/jobs", params=ALL, files={"image": photo}),
            http.post("/v1/jobs", params=ALL, json={"image_base64": base64.b64encode(photo).decode()}),
            http.post("/v1/submissions", params=ALL, files={"images": photo}),
            http.post(
                "/v1/submissions",
                params=ALL,
                headers={"Content-Type": "application/x-tar"},
                content=packed(photo),
            ),
        ]
    assert [answer.status_code for answer in asked] == [202] * 5, [answer.text for answer in asked]
    flags = [
        "--crops",
        "10",
        "--top-k",
        "20",
        "--min-probability",
        "0.001",
        "--temperature",
        "0.5",
        "--reuse",
    ]
    for server in ([], ["--server", gateway.url]):
        done = run_alexq(settings, "submit", str(path), *flags, *server)
        assert done.returncode == 0, done.stderr

    assert kept(database) == [ALL] * 9


def test_a_job_as_ever_keeps_nothing(
    producer: Producer, gateway: GatewayProcess, photo: bytes, database: Database
) -> None:
    producer.submit(photo)
    producer.submit(photo, crops=1, top_k=5, min_probability=0.0, temperature=1.0, reuse=False)
    with Client(gateway.url) as client:
        client.submit([photo], top_k=5)

    assert kept(database) == [None] * 3


@pytest.mark.parametrize("wrong", [{"crops": 7}, {"top_k": 0}, {"top_k": 101}, {"temperature": 0}])
def test_an_option_that_makes_no_sense_is_refused(
    producer: Producer, gateway: GatewayProcess, photo: bytes, database: Database, wrong: dict[str, Any]
) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong))):
        producer.submit(photo, **wrong)
    with Client(gateway.url) as client:
        with pytest.raises(RequestError):
            client.submit(photo, **wrong)
        with pytest.raises(RequestError):
            client.classify(photo, **wrong)
    assert kept(database) == []


def test_a_key_stands_for_its_options_too(gateway: GatewayProcess, photo: bytes) -> None:
    with Client(gateway.url) as client:
        first = client.submit(photo, idempotency_key="k", crops=10)
        assert client.submit(photo, idempotency_key="k", crops=10).job_ids == first.job_ids
        with pytest.raises(IdempotencyKeyReusedError):
            client.submit(photo, idempotency_key="k")


def test_a_worker_does_what_each_job_asks_for(
    producer: Producer,
    gateway: GatewayProcess,
    start_worker: Callable[..., WorkerProcess],
    settings: Settings,
    photo: bytes,
) -> None:
    start_worker()
    plain, ten, even, none = (
        producer.submit([photo] * 3, **how).wait(timeout_s=150)[0]
        for how in ({}, {"crops": 10, "top_k": 20}, {"temperature": 100.0}, {"min_probability": 1.0})
    )
    assert len(plain.predictions) == 5
    assert len(ten.predictions) == 20
    probabilities = [one.probability for one in ten.predictions]
    assert probabilities == sorted(probabilities, reverse=True)
    assert probabilities[:5] != [one.probability for one in plain.predictions]
    assert [one.label for one in even.predictions] == [one.label for one in plain.predictions]
    assert even.probability is not None
    assert even.probability < 0.01
    assert (none.state, none.label, none.predictions) == (JobState.SUCCEEDED, None, [])

    someone = Celery("someone", broker=settings.broker_url, backend=settings.broker_url)
    kwargs = {"image_base64": base64.b64encode(photo).decode(), "options": {"crops": 10, "top_k": 20}}
    told = someone.send_task("alexq.classify_image", kwargs=kwargs, queue="alexq.classify").get(timeout=200)
    someone.close()
    assert [one["label"] for one in told["predictions"]] == [one.label for one in ten.predictions]

    body = {
        "parameters": {"top_k": 20, "crops": 10},
        "inputs": [{"name": "image", "shape": [1], "datatype": "BYTES", "data": [kwargs["image_base64"]]}],
    }
    with gateway.client() as http:
        answer = http.post("/v2/models/alexnet/infer", json=body).json()
    labels = next(output for output in answer["outputs"] if output["name"] == "label")
    assert labels["shape"] == [1, 20]
    assert labels["data"] == [one.label for one in ten.predictions]
