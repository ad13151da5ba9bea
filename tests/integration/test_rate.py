"""How many images a tenant may hand in, in a time: real gateways on a real Redis."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest
import redis

from alexq import Client
from alexq_producer.gateway.app import create_app
from alexq_producer.gateway.core import Core
from alexq_schema.db import queries
from alexq_schema.db.session import Database
from alexq_schema.errors import SettingsError
from alexq_schema.settings import Settings
from tests.helpers.gateway import JPEG, GatewayProcess, make_key, running_gateway
from tests.helpers.photos import encode, photo_crops

PHOTOGRAPH = encode(photo_crops(1)[0])


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """Nothing here depends on the database."""
    return sqlite_url


@contextmanager
def limited(settings: Settings, rate: str, log: Path) -> Iterator[GatewayProcess]:
    with running_gateway(settings.model_copy(update={"gateway_rate": rate}), log) as gateway:
        yield gateway


def post(gateway: GatewayProcess, key: str | None = None) -> httpx2.Response:
    with gateway.client(key) as client:
        return client.post("/v1/jobs", content=PHOTOGRAPH, headers=JPEG)


def jobs_in(database: Database) -> int:
    with database.read() as connection:
        return sum(queries.counts(connection).values())


def test_two_gateways_share_each_tenants_rate(
    settings: Settings, tmp_path: Path, database: Database, client: redis.Redis
) -> None:
    one, other = (make_key(settings, tenant) for tenant in ("one", "other"))
    with (
        limited(settings, "10/hour", tmp_path / "a.log") as first,
        limited(settings, "10/hour", tmp_path / "b.log") as second,
        ThreadPoolExecutor(50) as threads,
    ):
        answers = list(threads.map(lambda number: post((first, second)[number % 2], one), range(50)))
        of_the_other = post(first, other)

    assert sorted(answer.status_code for answer in answers) == [202] * 10 + [429] * 40
    for answer in answers:
        if answer.status_code == 429:
            assert (answer.json()["code"], answer.json()["is_retryable"]) == ("rate_limited", True)
            assert 3_000 < int(answer.headers["retry-after"]) <= 3_601
    assert of_the_other.status_code == 202
    assert jobs_in(database) == 11
    assert all(key.startswith(b"alexq:") or b"kombu" in key or b"alexq." in key for key in client.scan_iter())


def test_a_submission_counts_as_its_images_and_is_paid_for_afterwards(
    settings: Settings, tmp_path: Path
) -> None:
    files = [("images", (f"{number}.jpg", PHOTOGRAPH)) for number in range(25)]
    with (
        limited(settings, "100/second;10/hour", tmp_path / "gateway.log") as gateway,
        gateway.client() as http,
    ):
        accepted = http.post("/v1/submissions", files=files)
        refused = post(gateway)

    assert accepted.status_code == 202
    assert (refused.status_code, refused.json()["code"]) == (429, "rate_limited")
    assert 2.4 * 3_600 < int(refused.headers["retry-after"]) <= 2.5 * 3_600 + 1


def test_what_is_refused_is_not_read(settings: Settings, tmp_path: Path) -> None:
    with limited(settings, "1/hour", tmp_path / "gateway.log") as gateway:
        post(gateway)
        with socket.create_connection(
            ("127.0.0.1", gateway.settings.gateway_port), timeout=300
        ) as connection:
            connection.sendall(
                b"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/jpeg\r\n"
                b"Content-Length: 1000000\r\n\r\n"
            )
            answer = connection.recv(4096)

    assert answer.startswith(b"HTTP/1.1 429 ")
    assert b"connection: close" in answer.lower()


def test_the_client_comes_back_when_it_was_told_to(settings: Settings, tmp_path: Path) -> None:
    with limited(settings, "1/5second", tmp_path / "gateway.log") as gateway:
        with Client(gateway.url) as client:
            for _ in range(3):
                client.submit([PHOTOGRAPH])
            jobs = client.jobs()
        with gateway.client() as http:
            told = http.get("/metrics").text

    assert len(jobs) == 3
    throttled = [
        line.split()[1] for line in told.splitlines() if line.startswith("alexq_gateway_throttled_total")
    ]
    assert [float(number) <= 4 for number in throttled] == [
        True
    ]  # by its own backoff it would have asked 10 times


def test_a_rate_that_cannot_be_read_is_refused_at_the_start(settings: Settings) -> None:
    core = Core(settings.model_copy(update={"gateway_rate": "lots"}))

    with pytest.raises(SettingsError, match="ALEXQ_GATEWAY_RATE='lots': write images per time"):
        create_app(core)
