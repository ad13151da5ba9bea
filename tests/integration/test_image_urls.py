"""Images that a request names by URL: a real gateway, and a real server that has them."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from alexq_schema.images import open_image_store
from alexq_schema.settings import Settings
from tests.helpers.gateway import JPEG, running_gateway
from tests.helpers.outside import Inside, response, serving
from tests.helpers.photos import encode, photo_crops
from tests.helpers.processes import WorkerProcess

PHOTOGRAPHS = [encode(crop) for crop in photo_crops(3)]
LINES = {"Content-Type": "application/x-ndjson"}


class Shop:
    """A server with pictures; what it has can change, and it says what it was asked for."""

    def __init__(self) -> None:
        self.pages = {f"/{number}.jpg": response(data) for number, data in enumerate(PHOTOGRAPHS)}
        self.asked: list[str] = []
        self.at_once = 0
        self.most_at_once = 0
        self.before_answering: Callable[[str], object] = lambda _path: None
        self._lock = threading.Lock()
        self.url = ""

    def talk(self, sock: socket.socket, request: str) -> None:
        path = request.split()[1]
        with self._lock:
            self.asked.append(path)
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        self.before_answering(path)
        with self._lock:
            self.at_once -= 1
        sock.sendall(self.pages.get(path.partition("?")[0], response(status="404 Not Found")))


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """What is behind the gateway is tested elsewhere."""
    return sqlite_url


@pytest.fixture
def shop() -> Iterator[Shop]:
    shop = Shop()
    with serving(shop.talk) as port:
        shop.url = f"http://127.0.0.1:{port}"
        yield shop


@pytest.fixture
def client(settings: Settings, tmp_path: Path) -> Iterator[httpx2.Client]:
    with client_of(
        settings, tmp_path, image_url_hosts="127.0.0.1", image_url_private=True, image_url_timeout_s=120.0
    ) as client:
        yield client


@contextmanager
def client_of(settings: Settings, folder: Path, **changed: Any) -> Iterator[httpx2.Client]:
    """Run a gateway with these settings and yield a client of it."""
    with (
        running_gateway(settings.model_copy(update=changed), folder / "gateway.log") as gateway,
        gateway.client() as client,
    ):
        yield client


def lines(*entries: dict[str, str]) -> bytes:
    return b"".join(json.dumps(entry).encode() + b"\n" for entry in entries)


def problem(answer: httpx2.Response, status: int, code: str) -> str:
    """Check that the answer is this problem and return its detail."""
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    return str(answer.json()["detail"])


def test_an_image_at_a_url_is_on_disk_when_it_is_accepted(
    client: httpx2.Client, shop: Shop, settings: Settings, start_worker: Callable[..., WorkerProcess]
) -> None:
    answer = client.post("/v1/jobs", json={"image_url": f"{shop.url}/0.jpg?signature=secret"})

    assert answer.status_code == 202
    job = answer.json()
    assert job["source"] == f"{shop.url}/0.jpg"
    assert open_image_store(settings.images_url).get(job["image_key"]) == PHOTOGRAPHS[0]
    start_worker()
    done = client.get(f"/v1/jobs/{job['job_id']}", headers={"Prefer": "wait=60"}).json()
    assert done["state"] == "succeeded"


def test_a_name_of_ones_own_stands_for_the_url(client: httpx2.Client, shop: Shop) -> None:
    reference = {"image_url": f"{shop.url}/0.jpg"}

    assert client.post("/v1/jobs?source=cat", json=reference).json()["source"] == "cat"
    assert client.post("/v1/jobs", json={**reference, "source": "dog"}).json()["source"] == "dog"


def test_many_are_fetched_a_few_at_a_time_and_keep_their_order(client: httpx2.Client, shop: Shop) -> None:
    fourth_came = threading.Event()

    def hold(path: str) -> None:
        if len(shop.asked) == 4:
            fourth_came.set()
        assert fourth_came.wait(60), "one at a time"

    shop.before_answering = hold
    entries = [{"image_url": f"{shop.url}/{n % 3}.jpg", "source": f"picture {n}"} for n in range(12)]
    entries.insert(
        5, {"image_key": client.post("/v1/jobs", content=PHOTOGRAPHS[0], headers=JPEG).json()["image_key"]}
    )
    answer = client.post("/v1/submissions", content=lines(*entries), headers=LINES)

    assert answer.status_code == 202, answer.text
    jobs = [client.get(f"/v1/jobs/{job_id}").json() for job_id in answer.json()["job_ids"]]
    assert [job["source"] for job in jobs] == [entry.get("source", "line 6") for entry in entries]
    assert len(shop.asked) == 12
    assert shop.most_at_once == 4


def test_urls_that_give_no_image_refuse_all_or_are_listed(client: httpx2.Client, shop: Shop) -> None:
    shop.pages |= {
        "/text": response(b"This is no picture.\n"),
        "/away": response(status="302 Found", Location="http://localhost:1/"),
        "/down": response(status="503 Busy"),
    }
    entries = [
        {"image_url": f"{shop.url}/0.jpg", "source": "good"},
        {"image_url": f"{shop.url}/absent.jpg", "source": "absent"},
        {"image_url": f"{shop.url}/text", "source": "text"},
        {"image_url": f"{shop.url}/away", "source": "away"},
        {"image_url": "http://elsewhere.example/", "source": "elsewhere"},
        {"image_url": "file:///etc/passwd", "source": "file"},
        {"image_url": f"{shop.url}/down", "source": "down"},
    ]

    detail = problem(
        client.post("/v1/submissions", content=lines(*entries[:2]), headers=LINES), 422, "image_url_refused"
    )
    assert detail.startswith("absent: ")
    assert "404" in detail
    answer = client.post("/v1/submissions?rejected=skip", content=lines(*entries), headers=LINES).json()
    assert answer["total"] == 1
    assert [(one["source"], one["code"]) for one in answer["rejected"]] == [
        ("absent", "image_url_refused"),
        ("text", "image_type_unsupported"),
        ("away", "image_url_refused"),
        ("elsewhere", "image_url_refused"),
        ("file", "image_url_refused"),
        ("down", "outward_unavailable"),
    ]
    unavailable = client.post("/v1/jobs", json={"image_url": f"{shop.url}/down"})
    problem(unavailable, 503, "outward_unavailable")
    assert "Retry-After" in unavailable.headers


def test_an_image_that_is_too_large_is_cut(settings: Settings, shop: Shop, tmp_path: Path) -> None:
    limit = len(PHOTOGRAPHS[0]) - 1
    allowed = {"image_url_hosts": "127.0.0.1", "image_url_private": True}
    with client_of(settings, tmp_path, max_image_bytes=limit, **allowed) as client:
        answer = client.post("/v1/jobs", json={"image_url": f"{shop.url}/0.jpg"})

    problem(answer, 413, "image_too_large")


def test_nothing_is_fetched_unless_hosts_are_named(settings: Settings, tmp_path: Path) -> None:
    inside = Inside()
    with client_of(settings, tmp_path) as client:
        answer = client.post("/v1/jobs", json={"image_url": f"http://127.0.0.1:{inside.port}/"})

    assert "ALEXQ_IMAGE_URL_HOSTS" in problem(answer, 422, "image_url_refused")
    assert inside.accepted() == 0
    inside.close()


def test_a_host_on_the_list_may_still_not_be_inside(settings: Settings, tmp_path: Path) -> None:
    inside = Inside()
    with client_of(settings, tmp_path, image_url_hosts="127.0.0.1, localhost") as client:
        for host in ("127.0.0.1", "localhost"):
            answer = client.post("/v1/jobs", json={"image_url": f"http://{host}:{inside.port}/"})
            problem(answer, 422, "image_url_refused")

    assert inside.accepted() == 0
    inside.close()


def test_a_key_stands_for_the_url_whatever_is_there_by_now(client: httpx2.Client, shop: Shop) -> None:
    key = {"Idempotency-Key": "k"}
    reference = {"image_url": f"{shop.url}/0.jpg"}
    first = client.post("/v1/jobs", json=reference, headers=key)
    shop.pages["/0.jpg"] = response(status="404 Not Found")

    again = client.post("/v1/jobs", json=reference, headers=key)

    assert (again.status_code, again.json()["job_id"]) == (202, first.json()["job_id"])
    assert again.headers["Idempotent-Replayed"] == "true"
    assert shop.asked == ["/0.jpg"]
    other = client.post("/v1/jobs", json={"image_url": f"{shop.url}/1.jpg"}, headers=key)
    problem(other, 422, "idempotency_key_reused")


def test_a_repeated_request_is_told_again_what_was_refused(client: httpx2.Client, shop: Shop) -> None:
    body = lines(*({"image_url": f"{shop.url}/{name}.jpg"} for name in ("absent", "1", "gone")))
    headers = {**LINES, "Idempotency-Key": "k"}
    first = client.post("/v1/submissions?rejected=skip", content=body, headers=headers).json()
    shop.pages["/gone.jpg"] = response(PHOTOGRAPHS[2])

    again = client.post("/v1/submissions?rejected=skip", content=body, headers=headers).json()

    assert again["job_ids"] == first["job_ids"]
    told = [[(one["source"], one["code"]) for one in answer["rejected"]] for answer in (first, again)]
    assert (
        told[0] == told[1] == [(f"{shop.url}/{name}.jpg", "image_url_refused") for name in ("absent", "gone")]
    )


@pytest.mark.parametrize(
    "changed",
    [{"image_url_hosts": "http://images.example"}, {"image_url_hosts": "*.images.example:80"}],
)
def test_a_malformed_host_keeps_the_gateway_from_starting(
    settings: Settings, tmp_path: Path, changed: dict[str, str]
) -> None:
    log = tmp_path / "gateway.log"
    with pytest.raises(AssertionError, match="the gateway exited"), client_of(settings, tmp_path, **changed):
        pass

    assert "could be allowed" in log.read_text()
    assert "Traceback" not in log.read_text()
