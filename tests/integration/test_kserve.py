"""The Open Inference Protocol (KServe's v2) as its clients see it."""

from __future__ import annotations

import base64
import json
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from sqlalchemy import select

from alexq_schema.db.session import Database
from alexq_schema.db.tables import Job as JobRow
from alexq_schema.settings import Settings
from tests.helpers.gateway import JPEG, GatewayProcess, make_key, running_gateway
from tests.helpers.open_inference import BINARY_HEADER, elements_of, in_binary, in_json
from tests.helpers.photos import encode, photo_crops
from tests.helpers.processes import WorkerProcess
from tests.helpers.system import System, success

PHOTOGRAPHS = [encode(crop) for crop in photo_crops(3)]
TRUNCATED = PHOTOGRAPHS[0][: len(PHOTOGRAPHS[0]) // 2]
TEXT = b"This is no picture.\n"
INFER = "/v2/models/alexnet/infer"
AT_ONCE = {"Prefer": "wait=0"}
PROGRAM = Path(__file__).parents[1] / "helpers" / "triton_program.py"


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """One database is enough here."""
    return sqlite_url


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Workers without a process do not become silent while a test runs."""
    return settings.model_copy(update={"silent_after_s": 300.0})


@pytest.fixture
def client(gateway: GatewayProcess) -> Iterator[httpx2.Client]:
    with gateway.client() as client:
        yield client


@pytest.fixture
def system(database: Database) -> System:
    """Two workers that serve ``alexnet/test`` and do what the test says."""
    return System(database)


def rows(database: Database) -> list[Any]:
    with database.read() as connection:
        return list(connection.execute(select(JobRow.id, JobRow.lane).order_by(JobRow.position)).all())


def error(answer: httpx2.Response, status: int) -> str:
    """Check that the answer is an error in the protocol's shape and return its text."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    assert list(answer.json()) == ["error"]
    return str(answer.json()["error"])


def finish(system: System, database: Database) -> None:
    """Let a worker do all jobs."""
    system.commit([success(claim) for claim in system.claim([row.id for row in rows(database)])])


def test_json_and_binary_requests_are_answered_as_the_queue_answers(
    client: httpx2.Client, start_worker: Callable[..., WorkerProcess]
) -> None:
    start_worker()
    expected = [
        client.post("/v1/jobs", content=image, headers={**JPEG, "Prefer": "wait=60"}).json()["predictions"]
        for image in PHOTOGRAPHS
    ]
    flat = {
        name: [prediction[name] for predictions in expected for prediction in predictions]
        for name in ("label", "probability", "index")
    }
    body, headers = in_binary(PHOTOGRAPHS, id="42", parameters={"binary_data_output": True})

    told = client.post(INFER, json=in_json(PHOTOGRAPHS, id="42")).json()
    binary = client.post(INFER, content=body, headers=headers)

    assert (told["id"], told["model_name"]) == ("42", "alexnet")
    by_name = {output["name"]: output for output in told["outputs"]}
    assert {name: output["datatype"] for name, output in by_name.items()} == {
        "label": "BYTES",
        "probability": "FP32",
        "index": "INT64",
    }
    assert all(output["shape"] == [3, 5] for output in by_name.values())
    assert by_name["label"]["data"] == flat["label"]
    assert by_name["index"]["data"] == flat["index"]
    assert by_name["probability"]["data"] == pytest.approx(flat["probability"], abs=1e-4)
    elements = elements_of(binary)
    assert [one.decode() for one in elements["label"]] == flat["label"]
    assert [struct.unpack("<q", one)[0] for one in elements["index"]] == flat["index"]
    probabilities = [struct.unpack("<f", one)[0] for one in elements["probability"]]
    assert probabilities == pytest.approx(flat["probability"], abs=1e-4)

    # An image that is accepted and turns out to be damaged: the answer names it, the others are done.
    whose = error(client.post(INFER, json=in_json([PHOTOGRAPHS[0], TRUNCATED])), 422)
    assert whose.startswith("image 1 (job ")
    assert client.get("/v1/jobs").json()["jobs"][0]["source"] == "image 1"


def test_the_lane_is_the_one_of_the_other_doors(
    client: httpx2.Client, system: System, database: Database
) -> None:
    client.post(INFER, json=in_json(PHOTOGRAPHS[:1]), headers=AT_ONCE)
    assert [row.lane for row in rows(database)] == ["interactive"]
    finish(system, database)

    client.post(INFER, json=in_json(PHOTOGRAPHS), headers=AT_ONCE)
    assert sorted(row.lane for row in rows(database)) == ["bulk"] * 3 + ["interactive"]


def test_what_is_not_finished_in_time_goes_on_and_can_be_waited_for_again(
    client: httpx2.Client, system: System, database: Database
) -> None:
    body, headers = in_binary(PHOTOGRAPHS)
    keyed = {**headers, **AT_ONCE, "Idempotency-Key": "k"}

    late = client.post(INFER, content=body, headers=keyed)
    later = client.post(INFER, content=body, headers=keyed)

    job_ids = [str(row.id) for row in rows(database)]
    assert len(job_ids) == 3
    assert all(job_id in error(late, 504) for job_id in job_ids)
    assert all(job_id in error(later, 504) for job_id in job_ids)
    finish(system, database)
    done = client.post(INFER, content=body, headers=keyed)
    assert done.json()["parameters"]["job_ids"].split(",") == job_ids
    assert done.json()["model_version"] == "test"
    assert done.json()["outputs"][0]["shape"] == [3, 1]


@pytest.mark.parametrize("way", ["json", "binary"])
def test_one_refused_image_refuses_all_and_is_named(
    client: httpx2.Client, system: System, database: Database, way: str
) -> None:
    images = [PHOTOGRAPHS[0], TEXT]
    if way == "json":
        answer = client.post(INFER, json=in_json(images))
    else:
        body, headers = in_binary(images)
        answer = client.post(INFER, content=body, headers=headers)

    assert "image 1" in error(answer, 415)
    assert rows(database) == []


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"name": "picture"}, "image"),
        ({"datatype": "UINT8"}, "BYTES"),
        ({"shape": [2]}, "the shape says 2"),
        ({"shape": [1, 3]}, "[images, 1]"),
        ({"shape": [0], "data": []}, "one image at least"),
        ({"data": ["not base64"]}, "base64"),
        ({"data": None}, "binary_data_size"),
        ({"data": None, "parameters": {"binary_data_size": 4}}, BINARY_HEADER),
    ],
)
def test_a_tensor_that_makes_no_sense_is_told(
    client: httpx2.Client, system: System, database: Database, change: dict[str, Any], told: str
) -> None:
    request = in_json(PHOTOGRAPHS[:1])
    request["inputs"][0].update(change)

    assert told in error(client.post(INFER, json=request), 422)
    assert rows(database) == []


@pytest.mark.parametrize(
    ("damaged", "told"),
    [
        (lambda body: body[:-1], "ends before"),
        (lambda body: body + b"\0", "more than the 2 images"),
        (lambda body: body.replace(b'"shape": [2, 1]', b'"shape": [1, 1]'), "more than the 1 images"),
        (lambda body: body.replace(b'"shape": [2, 1]', b'"shape": [3, 1]'), "ends before"),
        (lambda body: b"[" + body[1:], "JSON"),
    ],
)
@pytest.mark.parametrize("is_streamed", [False, True])
def test_binary_data_that_does_not_fit_is_told(
    client: httpx2.Client,
    system: System,
    database: Database,
    damaged: Callable[[bytes], bytes],
    told: str,
    is_streamed: bool,
) -> None:
    body, headers = in_binary(PHOTOGRAPHS[:2])
    content: Any = iter([damaged(body)]) if is_streamed else damaged(body)

    assert told in error(client.post(INFER, content=content, headers=headers), 422)
    assert rows(database) == []


def test_more_than_allowed_is_cut(settings: Settings, system: System, tmp_path: Path) -> None:
    small = settings.model_copy(
        update={"max_image_bytes": 100_000, "max_submission_bytes": 200_000, "max_submission_images": 2}
    )
    big = PHOTOGRAPHS[0] + bytes(100_000)
    with running_gateway(small, tmp_path / "gateway.log") as gateway, gateway.client() as client:
        body, headers = in_binary([big])
        assert "image 0" in error(client.post(INFER, content=body, headers=headers), 413)
        body, headers = in_binary([big, big])
        error(client.post(INFER, content=iter([body]), headers=headers), 413)
        error(client.post(INFER, json=in_json([big, big])), 413)
        assert "more than 2 images" in error(client.post(INFER, json=in_json(PHOTOGRAPHS)), 413)
        error(client.post(INFER, content=body, headers={BINARY_HEADER: "1000000"}), 422)


def test_only_outputs_that_exist_in_forms_that_exist_are_given(
    client: httpx2.Client, system: System, database: Database
) -> None:
    def asking(*outputs: dict[str, Any]) -> httpx2.Response:
        headers = {**AT_ONCE, "Idempotency-Key": "k"}
        return client.post(INFER, json=in_json(PHOTOGRAPHS[:1], outputs=outputs), headers=headers)

    error(asking({"name": "embedding"}), 422)
    error(asking({"name": "label", "parameters": {"classification": 3}}), 422)
    error(asking({"name": "label"}), 504)
    finish(system, database)
    told = asking({"name": "index"}, {"name": "label"}).json()
    assert [(output["name"], output["data"]) for output in told["outputs"]] == [
        ("index", [0]),
        ("label", ["tabby"]),
    ]


def test_a_model_that_is_not_served_is_not_asked(
    client: httpx2.Client, system: System, database: Database
) -> None:
    request = in_json(PHOTOGRAPHS[:1])
    for model in ("resnet", "alexnet/versions/7"):
        for path in ("", "/ready"):
            assert "GET /v1/models" in error(client.get(f"/v2/models/{model}{path}"), 404)
        error(client.post(f"/v2/models/{model}/infer", json=request), 404)
    for model in ("alexnet", "alexnet/versions/test"):
        assert client.get(f"/v2/models/{model}/ready").json() == {"name": "alexnet", "ready": True}
        assert client.get(f"/v2/models/{model}").json()["versions"] == ["test"]
        error(client.post(f"/v2/models/{model}/infer", json=request, headers=AT_ONCE), 504)
    assert client.get("/v2/health/ready").json() == {"ready": True}

    for worker in (system.worker, system.other):
        system.leave(worker)
    error(client.get("/v2/health/ready"), 503)
    error(client.get("/v2/models/alexnet/ready"), 503)
    error(client.post(INFER, json=request), 503)
    assert client.get("/v2/models/alexnet").json()["versions"] == []
    assert client.get("/v2/health/live").json() == {"live": True}
    assert client.get("/v2").json()["extensions"] == ["binary_tensor_data"]
    error(client.get("/v2/repository/index"), 404)
    assert len(rows(database)) == 2


def test_an_answer_of_another_version_is_not_passed_off(
    client: httpx2.Client, system: System, database: Database
) -> None:
    headers = {**AT_ONCE, "Idempotency-Key": "k"}
    request = in_json(PHOTOGRAPHS[:1])
    error(client.post("/v2/models/alexnet/versions/test/infer", json=request, headers=headers), 504)
    system.serve("newer")
    finish(system, database)

    told = client.post("/v2/models/alexnet/versions/test/infer", json=request, headers=headers)

    assert "alexnet/newer" in error(told, 503)
    again = client.post(INFER, json=request, headers=headers)
    assert "Idempotency-Key" in error(again, 422)  # it stands for a request that names a version


def test_base64_may_be_nested_as_the_shape_is(client: httpx2.Client, system: System) -> None:
    request = in_json(PHOTOGRAPHS[:1])
    image = base64.b64encode(PHOTOGRAPHS[0]).decode()
    request["inputs"][0].update(shape=[1, 1], data=[[image]], parameters={"content_type": "base64"})

    error(client.post(INFER, json=request, headers=AT_ONCE), 504)


def test_tritonclient_works_as_it_is(
    gateway: GatewayProcess,
    settings: Settings,
    start_worker: Callable[..., WorkerProcess],
    tmp_path: Path,
) -> None:
    start_worker()
    key = make_key(settings, "shop")
    files = [tmp_path / f"{number}.jpg" for number in range(3)]
    for file, image in zip(files, PHOTOGRAPHS, strict=True):
        file.write_bytes(image)

    done = subprocess.run(
        [sys.executable, PROGRAM, gateway.url.removeprefix("http://"), key, "alexnet", *map(str, files)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["server"]["name"] == "alexq"
    assert told["is_live"]
    assert told["is_ready"]
    assert told["is_model_ready"]
    assert told["model"]["inputs"] == [{"name": "image", "datatype": "BYTES", "shape": [-1]}]
    assert told["id"] == "42"
    assert [len(row) for row in told["labels"]] == [5, 5, 5]
    assert all(row == sorted(row, reverse=True) for row in told["probabilities"])
    assert told["named"] == [[3, 5], told["indexes"], None]
    status, text = told["refused"]
    assert status == "415"
    assert text.startswith("image 0")
