"""The HTTP gateway as a client sees it: a real process, real databases, real workers."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import UUID, uuid4

import httpx2
import pytest
from sqlalchemy import func, select, update

from alexq_schema.db.clock import db_now
from alexq_schema.db.idempotency import IdempotencyKey
from alexq_schema.db.session import Database
from alexq_schema.db.tables import Job as JobRow
from alexq_schema.settings import Settings
from tests.helpers.gateway import JPEG, GatewayProcess, running_gateway
from tests.helpers.photos import encode, photo_crops
from tests.helpers.processes import WorkerProcess
from tests.helpers.system import System, success

PHOTOGRAPHS = [encode(crop) for crop in photo_crops(3)]
TEXT = b"This is no picture.\n"


@pytest.fixture
def client(gateway: GatewayProcess) -> Iterator[httpx2.Client]:
    with gateway.client() as client:
        yield client


def jobs_in(database: Database) -> int:
    with database.read() as connection:
        return connection.execute(select(func.count()).select_from(JobRow)).scalar_one()


def problem(answer: httpx2.Response, status: int, code: str) -> str:
    """Check that the answer is this problem and return its detail."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    told = answer.json()
    assert (told["code"], told["status"]) == (code, status)
    assert told["title"]
    return str(told["detail"])


def tar_of(files: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return packed.getvalue()


def zip_of(files: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return packed.getvalue()


def test_an_image_goes_in_and_its_labels_come_out(
    client: httpx2.Client, start_worker: Callable[..., WorkerProcess]
) -> None:
    start_worker()

    accepted = client.post("/v1/jobs", content=PHOTOGRAPHS[0], headers=JPEG, params={"source": "cat.jpg"})
    finished = client.get(accepted.headers["location"], headers={"Prefer": "wait=60"})
    at_once = client.post("/v1/jobs", content=PHOTOGRAPHS[1], headers={**JPEG, "Prefer": "wait=60"})

    assert accepted.status_code == 202
    assert int(accepted.headers["retry-after"]) >= 1
    assert (finished.json()["state"], finished.json()["source"]) == ("succeeded", "cat.jpg")
    assert len(finished.json()["predictions"]) == 5
    assert (at_once.status_code, at_once.json()["state"]) == (200, "succeeded")
    assert at_once.headers["preference-applied"] == "wait=60"
    assert client.get("/v1/models").json()["models"][0]["workers"] == 1


@pytest.mark.parametrize("way", ["body", "form", "base64", "key"])
def test_one_image_may_come_in_four_ways(client: httpx2.Client, way: str) -> None:
    image = PHOTOGRAPHS[0]
    key = hashlib.sha256(image).hexdigest()
    if way == "key":
        client.post("/v1/jobs", content=image, headers=JPEG)
    answer = {
        "body": lambda: client.post("/v1/jobs", content=image, headers=JPEG),
        "form": lambda: client.post("/v1/jobs", files={"image": ("cat.jpg", image)}),
        "base64": lambda: client.post("/v1/jobs", json={"image_base64": base64.b64encode(image).decode()}),
        "key": lambda: client.post("/v1/jobs", json={"image_key": key}),
    }[way]()

    assert answer.status_code == 202, answer.text
    assert answer.json()["image_key"] == key
    assert client.get(answer.headers["location"]).json()["state"] == "queued"


@pytest.mark.parametrize(
    ("query", "whose"),
    [
        ("lane=none", "query.lane"),
        ("deadline_s=0", "query.deadline_s"),
        ("deadline_s=soon", "query.deadline_s"),
        (f"source={'a' * 1_025}", "query.source"),
    ],
)
def test_an_option_that_makes_no_sense_is_told(client: httpx2.Client, query: str, whose: str) -> None:
    """``POST /v1/jobs`` reads its parameters without FastAPI, and answers as the other operations do."""
    told = client.post(f"/v1/jobs?{query}", content=PHOTOGRAPHS[0], headers=JPEG)

    assert whose in problem(told, 422, "request_invalid")
    assert [one["source"] for one in told.json()["errors"]] == [whose]
    if "source" not in query:
        assert told.json()["detail"] == client.post(f"/v1/submissions?{query}").json()["detail"]


@pytest.mark.parametrize("way", ["form", "tar", "zip", "lines"])
def test_many_images_may_come_in_four_ways(client: httpx2.Client, way: str) -> None:
    files = {f"day one/{number}.jpg": image for number, image in enumerate(PHOTOGRAPHS)}
    hidden = {"day one/": b"", "__MACOSX/._0.jpg": TEXT, ".DS_Store": TEXT}
    lines = "\n".join(
        json.dumps({"source": name, "image_base64": base64.b64encode(image).decode()})
        for name, image in files.items()
    )
    answer = {
        "form": lambda: client.post("/v1/submissions", files=[("images", one) for one in files.items()]),
        "tar": lambda: client.post(
            "/v1/submissions", content=tar_of(files), headers={"Content-Type": "application/x-tar"}
        ),
        "zip": lambda: client.post(
            "/v1/submissions", content=zip_of(files | hidden), headers={"Content-Type": "application/zip"}
        ),
        "lines": lambda: client.post(
            "/v1/submissions", content=lines, headers={"Content-Type": "application/x-ndjson"}
        ),
    }[way]()

    assert answer.status_code == 202, answer.text
    status = client.get(answer.headers["location"]).json()
    assert (status["total"], status["counts"], status["is_finished"]) == (3, {"queued": 3}, False)
    sources = [client.get(f"/v1/jobs/{job_id}").json()["source"] for job_id in answer.json()["job_ids"]]
    assert sources == list(files)


def test_one_bad_image_refuses_all_or_is_listed(client: httpx2.Client, database: Database) -> None:
    files = [("images", ("good.jpg", PHOTOGRAPHS[0])), ("images", ("bad.jpg", TEXT))]

    refused = client.post("/v1/submissions", files=files)
    listed = client.post("/v1/submissions", files=files, params={"rejected": "skip"})
    nothing_left = client.post("/v1/submissions", files=files[1:], params={"rejected": "skip"})

    assert "bad.jpg" in problem(refused, 415, "image_type_unsupported")
    assert listed.status_code == 202
    [rejection] = listed.json()["rejected"]
    assert (rejection["source"], rejection["code"]) == ("bad.jpg", "image_type_unsupported")
    assert (nothing_left.status_code, nothing_left.json()["submission_id"]) == (200, None)
    assert jobs_in(database) == 1


def test_results_stream_in_the_order_in_which_they_finish(
    client: httpx2.Client, start_worker: Callable[..., WorkerProcess]
) -> None:
    files = [("images", (f"{number}.jpg", image)) for number, image in enumerate(PHOTOGRAPHS)]
    submitted = client.post("/v1/submissions", files=files)
    path = submitted.headers["location"]
    assert client.get(f"{path}/results", params={"wait_s": 0}).text == ""

    start_worker()
    lines = client.get(f"{path}/results", params={"wait_s": 60}).text.splitlines()

    results = [json.loads(line) for line in lines]
    assert {result["state"] for result in results} == {"succeeded"}
    assert {result["job_id"] for result in results} == set(submitted.json()["job_ids"])
    finished_at = [result["finished_at"] for result in results]
    assert finished_at == sorted(finished_at)
    status = client.get(path).json()
    assert (status["is_finished"], status["counts"]) == (True, {"succeeded": 3})


def test_what_cannot_be_served_is_a_problem_that_says_why(client: httpx2.Client, database: Database) -> None:
    def post(content: bytes, kind: str, path: str = "/v1/jobs", **options: str) -> httpx2.Response:
        return client.post(path, content=content, headers={"Content-Type": kind}, params=options)

    image = PHOTOGRAPHS[0]
    assert "is empty" in problem(post(b"", "image/jpeg"), 422, "image_empty")
    assert "holiday.jpg" in problem(
        post(TEXT, "image/jpeg", source="holiday.jpg"), 415, "image_type_unsupported"
    )
    assert "image/jpeg" in problem(post(image, "text/plain"), 415, "media_type_unsupported")
    two = [("image", ("a.jpg", image)), ("image", ("b.jpg", image))]
    assert "/v1/submissions" in problem(client.post("/v1/jobs", files=two), 422, "request_invalid")
    assert "application/zip" in problem(
        post(image, "image/jpeg", "/v1/submissions"), 415, "media_type_unsupported"
    )
    assert "image_base64" in problem(post(b"{}", "application/json"), 422, "request_invalid")
    assert "base64" in problem(post(b'{"image_base64": "?"}', "application/json"), 422, "request_invalid")
    assert "line 2" in problem(
        post(
            b'{"image_base64": "%s"}\nnonsense' % base64.b64encode(image),
            "application/x-ndjson",
            "/v1/submissions",
        ),
        422,
        "request_invalid",
    )
    missing = json.dumps({"image_key": "0" * 64}).encode()
    assert "0" * 64 in problem(post(missing, "application/json"), 422, "image_not_found")
    assert "ZIP" in problem(post(TEXT, "application/zip", "/v1/submissions"), 422, "request_invalid")
    assert "tar" in problem(
        post(tar_of({"a.jpg": image})[:-60_000], "application/x-tar", "/v1/submissions"),
        422,
        "request_invalid",
    )
    assert "multipart" in problem(
        post(b"--x\r\nnonsense", "multipart/form-data; boundary=x"), 422, "request_invalid"
    )
    assert "no image" in problem(post(tar_of({}), "application/x-tar", "/v1/submissions"), 422, "usage")
    assert "deadline_s" in problem(post(image, "image/jpeg", deadline_s="-1"), 422, "request_invalid")
    unknown = uuid4()
    assert str(unknown) in problem(client.get(f"/v1/jobs/{unknown}"), 404, "job_not_found")
    assert str(unknown) in problem(client.get(f"/v1/submissions/{unknown}"), 404, "job_not_found")
    problem(client.get("/v1/jobs/nonsense"), 422, "request_invalid")
    problem(client.get("/v1/jobs", params={"cursor": "nonsense"}), 422, "request_invalid")
    problem(client.get("/nowhere"), 404, "route_not_found")
    for moment in ("0.5", "2026-01-31T12:00:00", "yesterday"):
        assert "created_after" in problem(
            client.get("/v1/jobs", params={"created_after": moment}), 422, "request_invalid"
        )
    not_allowed = client.put("/v1/jobs")
    problem(not_allowed, 405, "method_not_allowed")
    assert not_allowed.headers["allow"] == "GET, POST"
    assert jobs_in(database) == 0


def test_jobs_are_cancelled_and_dead_ones_redriven(client: httpx2.Client, database: Database) -> None:
    system = System(database)
    files = [("images", (f"{number}.jpg", image)) for number, image in enumerate(PHOTOGRAPHS)]
    submitted = client.post("/v1/submissions", files=files)
    done, dead, queued = (UUID(job_id) for job_id in submitted.json()["job_ids"])
    system.commit([success(claim) for claim in system.claim([done])])
    system.change([dead], state="dead", error_code="engine_failed")

    redriven = client.post(f"/v1/jobs/{dead}/redrive")
    cancelled = client.delete(f"/v1/jobs/{queued}")

    assert (redriven.status_code, redriven.json()["state"]) == (202, "queued")
    assert (cancelled.status_code, cancelled.json()["state"]) == (200, "cancelled")
    assert client.delete(f"/v1/jobs/{queued}").status_code == 200  # again is no error
    assert "succeeded" in problem(client.delete(f"/v1/jobs/{done}"), 409, "job_state")
    assert "queued" in problem(client.post(f"/v1/jobs/{dead}/redrive"), 409, "job_state")
    assert client.delete(submitted.headers["location"]).json()["counts"] == {"succeeded": 1, "cancelled": 2}


def test_lists_are_filtered_and_paged_without_gaps(client: httpx2.Client, database: Database) -> None:
    system = System(database)
    for number in range(5):
        client.post("/v1/jobs", content=PHOTOGRAPHS[0], headers=JPEG, params={"source": f"{number}.jpg"})
    newest_first = [job["job_id"] for job in client.get("/v1/jobs").json()["jobs"]]
    system.commit([success(claim) for claim in system.claim([UUID(newest_first[0])])])

    def walk(path: str, of: str) -> list[dict[str, str]]:
        found, following = [], f"{path}{'&' if '?' in path else '?'}limit=2"
        while following:
            page = client.get(following)
            found += page.json()[of]
            following = page.links.get("next", {}).get("url", "")
            assert bool(following) == bool(page.json()["next_cursor"])
        return found

    assert [job["job_id"] for job in walk("/v1/jobs", "jobs")] == newest_first
    assert [job["job_id"] for job in walk("/v1/jobs?state=queued", "jobs")] == newest_first[1:]
    assert [job["job_id"] for job in walk("/v1/jobs?label=tabby", "jobs")] == newest_first[:1]
    assert [job["job_id"] for job in walk("/v1/jobs?model=alexnet/test", "jobs")] == newest_first[:1]
    assert walk("/v1/jobs?model=alexnet/other", "jobs") == []
    assert walk("/v1/jobs?created_before=2020-01-01T00:00:00Z", "jobs") == []
    assert len(walk("/v1/jobs?created_after=2020-01-01T00:00:00Z", "jobs")) == 5
    assert len(walk("/v1/submissions", "submissions")) == 5


def test_a_key_stands_for_its_first_request(client: httpx2.Client, database: Database) -> None:
    def post(image: bytes, key: str = "order-4711") -> httpx2.Response:
        return client.post("/v1/jobs", content=image, headers={**JPEG, "Idempotency-Key": key})

    first, again, other_key = post(PHOTOGRAPHS[0]), post(PHOTOGRAPHS[0]), post(PHOTOGRAPHS[0], "other")

    assert again.json()["job_id"] == first.json()["job_id"] != other_key.json()["job_id"]
    assert again.headers["idempotent-replayed"] == "true"
    assert "order-4711" in problem(post(PHOTOGRAPHS[1]), 422, "idempotency_key_reused")
    problem(post(PHOTOGRAPHS[0], "x" * 256), 422, "request_invalid")
    assert jobs_in(database) == 2

    with database.begin() as connection:  # a day goes by
        connection.execute(update(IdempotencyKey).values(expires_at=db_now(-1)))
    assert post(PHOTOGRAPHS[1]).status_code == 202
    assert jobs_in(database) == 3


def test_fifty_equal_requests_at_once_make_one_job(
    gateway: GatewayProcess, settings: Settings, tmp_path: Path, database: Database
) -> None:
    """Through two gateways: what one does not know of the other, the database does."""
    with running_gateway(settings, tmp_path / "other.log") as other:

        def post(number: int) -> httpx2.Response:
            with (gateway, other)[number % 2].client() as client:
                headers = {**JPEG, "Idempotency-Key": "one"}
                return client.post("/v1/jobs", content=PHOTOGRAPHS[0], headers=headers)

        with ThreadPoolExecutor(50) as threads:
            answers = list(threads.map(post, range(50)))

    accepted = {answer.json()["job_id"] for answer in answers if answer.status_code == 202}
    assert len(accepted) == 1
    for answer in answers:
        if answer.status_code != 202:
            problem(answer, 409, "idempotency_key_busy")
            assert int(answer.headers["retry-after"]) >= 1
    assert jobs_in(database) == 1


def test_the_document_describes_every_route_and_the_shape_of_its_errors(client: httpx2.Client) -> None:
    document = client.get("/openapi.json").json()

    assert sum(map(len, document["paths"].values())) >= 22
    for path, operations in document["paths"].items():
        shape = "application/json" if path.startswith("/v2") else "application/problem+json"
        assert all(list(one["responses"]["default"]["content"]) == [shape] for one in operations.values())
    assert "HTTPValidationError" not in json.dumps(document)
