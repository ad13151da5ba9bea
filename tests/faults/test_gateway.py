"""The gateway under clients that misbehave, services that are away, and SIGKILL."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import UUID

import httpx2
import psutil
import pytest
import redis

from alexq_schema.db import queries
from alexq_schema.db.session import Database
from alexq_schema.names import QUEUE_CLASSIFY
from alexq_schema.settings import Settings
from tests.helpers.eventually import eventually
from tests.helpers.gateway import JPEG, GatewayProcess, running_gateway
from tests.helpers.photos import encode, photo_crops
from tests.helpers.postgres import PostgresServer
from tests.helpers.processes import stopped_server

PHOTOGRAPH = encode(photo_crops(1)[0])
MIB = 2**20


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """Most of this does not depend on the database."""
    return sqlite_url


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"max_image_bytes": 4 * MIB, "publish_timeout_s": 30.0})


def connect(gateway: GatewayProcess) -> socket.socket:
    return socket.create_connection(("127.0.0.1", gateway.settings.gateway_port), timeout=300)


def head(path: str, length: int, kind: str = "image/jpeg") -> bytes:
    return (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\r\n"
    ).encode()


def nothing_is_left(gateway: GatewayProcess) -> bool:
    images = Path(gateway.settings.data_dir) / "images"
    drafts = [path for path in images.rglob("*") if path.is_file()]
    opened = [file.path for file in psutil.Process(gateway.process.pid).open_files()]
    return not drafts and not [path for path in opened if "tmp" in path and "deleted" in path]


@pytest.mark.parametrize(
    ("path", "kind"),
    [("/v1/jobs", "image/jpeg"), ("/v1/submissions", "multipart/form-data; boundary=x")],
)
def test_a_client_that_leaves_in_the_middle_leaves_nothing_behind(
    gateway: GatewayProcess, path: str, kind: str
) -> None:
    part = b'--x\r\nContent-Disposition: form-data; name="i"; filename="a.jpg"\r\n\r\n' + PHOTOGRAPH
    body = PHOTOGRAPH * 8 if path == "/v1/jobs" else part + b"\r\n" + part
    with connect(gateway) as connection:
        connection.sendall(head(path, 4 * MIB, kind) + body)

    eventually(lambda: nothing_is_left(gateway), what="nothing is left")
    with gateway.client() as client:
        assert client.get("/v1/jobs").json()["jobs"] == []


@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/submissions"])
def test_a_client_that_stops_sending_is_cut(settings: Settings, tmp_path: Path, path: str) -> None:
    hasty = settings.model_copy(update={"gateway_body_timeout_s": 1.0})
    with running_gateway(hasty, tmp_path / "gateway.log") as gateway, connect(gateway) as connection:
        begun = head(path, 1000, "application/x-ndjson" if "sub" in path else "image/jpeg") + b" "
        connection.sendall(begun)
        answer = b"".join(iter(lambda: connection.recv(4096), b""))

    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"request_timeout" in answer


def test_what_is_no_http_is_a_problem_too(gateway: GatewayProcess) -> None:
    with connect(gateway) as connection:
        connection.sendall(b"HELO gateway\r\n\r\n")
        answer = b"".join(iter(lambda: connection.recv(4096), b""))

    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"application/problem+json" in answer
    assert b"request_invalid" in answer


def test_an_oversize_body_is_cut_in_mid_stream(gateway: GatewayProcess) -> None:
    sent = 0

    def endless() -> Iterator[bytes]:
        nonlocal sent
        while sent < 64 * MIB:
            sent += 2**16
            yield bytes(2**16)

    with gateway.client() as client:
        answer = client.post("/v1/jobs", content=endless(), headers=JPEG)
        declared = client.post("/v1/jobs", content=bytes(5 * MIB), headers=JPEG)

    assert (answer.status_code, answer.json()["code"]) == (413, "image_too_large")
    assert (declared.status_code, declared.json()["code"]) == (413, "image_too_large")
    assert sent < 64 * MIB


def test_many_oversize_uploads_at_once_take_little_memory(gateway: GatewayProcess) -> None:
    with gateway.client() as client:
        client.post("/v1/jobs", content=PHOTOGRAPH, headers=JPEG)
    before = gateway.rss_bytes()
    peak = before
    done = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.02):
            peak = max(peak, gateway.rss_bytes())

    def upload(_number: int) -> int:
        with gateway.client() as client:
            pieces = (bytes(2**16) for _ in range(96))  # 6 MiB, 4 are allowed
            return client.post("/v1/jobs", content=pieces, headers=JPEG).status_code

    watcher = threading.Thread(target=watch)
    watcher.start()
    with ThreadPoolExecutor(100) as threads:
        statuses = set(threads.map(upload, range(100)))
    done.set()
    watcher.join()

    assert statuses == {413}
    assert peak - before <= 32 * MIB


def test_a_gateway_that_stops_sends_those_who_wait_away_in_good_order(gateway: GatewayProcess) -> None:
    answers: list[httpx2.Response] = []

    def wait() -> None:
        with gateway.client() as client:
            headers = {**JPEG, "Prefer": "wait=60"}
            answers.append(client.post("/v1/jobs", content=PHOTOGRAPH, headers=headers, timeout=200))

    waiting = threading.Thread(target=wait)
    waiting.start()
    with gateway.client() as client:
        eventually(lambda: client.get("/v1/jobs").json()["jobs"], what="the job is accepted")
    gateway.process.terminate()
    waiting.join(150)

    assert [(answer.status_code, answer.json()["state"]) for answer in answers] == [(202, "queued")]
    assert gateway.process.wait(150) == 0


def test_nobody_waits_for_a_redis_that_is_away(gateway: GatewayProcess, broker_url: str) -> None:
    with stopped_server(broker_url), gateway.client() as client:
        began_at = time.monotonic()
        statuses = [client.post("/v1/jobs", content=PHOTOGRAPH, headers=JPEG).status_code for _ in range(10)]
        lasted_s = time.monotonic() - began_at
        ready = client.get("/readyz")

    assert statuses == [202] * 10
    assert lasted_s < gateway.settings.publish_timeout_s  # which one who waited for it would have taken
    with redis.Redis.from_url(broker_url) as broker:  # they go out when it is back
        eventually(lambda: broker.llen(QUEUE_CLASSIFY) > 0, 60, what="the messages go out")
    assert (ready.status_code, ready.json()["broker"]) == (200, "unavailable")


def test_nothing_is_accepted_while_the_database_is_away(gateway: GatewayProcess) -> None:
    path = Path(gateway.settings.database_url.removeprefix("sqlite:///"))
    with gateway.client() as client:
        client.get("/healthz")
        path.rename(path.with_suffix(".away"))
        path.mkdir()  # cannot be opened
        refused = [
            client.post("/v1/jobs", content=PHOTOGRAPH, headers=JPEG),
            client.get("/v1/jobs"),
            client.get("/readyz"),
        ]
        path.rmdir()
        path.with_suffix(".away").rename(path)
        again = client.post("/v1/jobs", content=PHOTOGRAPH, headers=JPEG)

    for answer in refused:
        assert (answer.status_code, answer.json()["code"]) == (503, "database_unavailable")
        assert int(answer.headers["retry-after"]) >= 1
    assert again.status_code == 202


def test_a_postgresql_outage_is_told_and_survived(
    settings: Settings, postgres_server: PostgresServer, postgres_url: str, tmp_path: Path
) -> None:
    settings = settings.model_copy(update={"database_url": postgres_url})
    with running_gateway(settings, tmp_path / "gateway.log") as gateway, gateway.client() as client:
        before = client.post("/v1/jobs", content=PHOTOGRAPH, headers=JPEG)
        with postgres_server.outage(postgres_url):
            refused = client.post("/v1/jobs", content=PHOTOGRAPH, headers=JPEG)
        after = client.post("/v1/jobs", content=PHOTOGRAPH, headers=JPEG)
        found = client.get("/v1/jobs").json()["jobs"]

    assert (refused.status_code, refused.json()["code"]) == (503, "database_unavailable")
    assert int(refused.headers["retry-after"]) >= 1
    assert [job["job_id"] for job in found] == [after.json()["job_id"], before.json()["job_id"]]


def test_what_was_accepted_is_there_however_often_the_gateway_is_killed(
    gateway: GatewayProcess, database: Database
) -> None:
    """Clients repeat a request, with its key, until it is accepted; their log against the database."""
    accepted: dict[str, str] = {}
    keys = [f"key {number}" for number in range(60)]
    done = threading.Event()

    def client_of(mine: list[str]) -> None:
        for key in mine:
            while key not in accepted:
                try:
                    with gateway.client() as client:
                        answer = client.post(
                            "/v1/jobs", content=PHOTOGRAPH, headers={**JPEG, "Idempotency-Key": key}
                        )
                except httpx2.TransportError:
                    done.wait(0.1)
                    continue
                if answer.status_code == 202:
                    accepted[key] = answer.json()["job_id"]
                else:
                    done.wait(0.1)

    def work() -> None:
        with ThreadPoolExecutor(6) as threads:
            list(threads.map(client_of, [keys[start::6] for start in range(6)]))
        done.set()

    worker = threading.Thread(target=work)
    worker.start()
    kills = 0
    while not done.wait(0.4) and kills < 4:
        gateway.kill()
        gateway.start()
        kills += 1
    worker.join(300)

    assert done.is_set()
    assert kills >= 1
    job_ids = [UUID(job_id) for job_id in accepted.values()]
    assert len(set(job_ids)) == len(keys)
    with database.read() as connection:
        assert {job.job_id for job in queries.by_id(connection, job_ids)} == set(job_ids)
        assert sum(queries.counts(connection).values()) == len(keys)
