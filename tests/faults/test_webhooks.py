"""Webhooks under SIGKILL, a Redis that forgets, a database that goes away and receivers that hang."""

from __future__ import annotations

import threading
from pathlib import Path
from uuid import UUID

import pytest
import redis
from celery import Celery

from alexq_producer.webhooks.app import celery_app
from alexq_producer.webhooks.dispatcher import Dispatcher
from alexq_producer.webhooks.pace import Pace
from alexq_schema.db.session import Database
from alexq_schema.names import QUEUE_WEBHOOKS
from alexq_schema.settings import Settings
from tests.helpers.eventually import eventually
from tests.helpers.gateway import JPEG, running_gateway
from tests.helpers.photos import encode, photo_crops
from tests.helpers.postgres import PostgresServer
from tests.helpers.system import System, success
from tests.helpers.webhooks import (
    HURRIED,
    Received,
    Receiver,
    WebhookWorker,
    deliveries_of,
    delivering,
    finish_one,
    register,
)

PATIENT = "Pace(timeout_s=300, lease_s=900, look_every_s=0.1)"
LEASE_S = 10.0
"""Of a worker that dies: so long others wait for it."""
MORTAL = HURRIED.replace("180", str(LEASE_S))
HASTY = HURRIED.replace("60", "1.5")


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Settings of a system whose receivers are on loopback."""
    return settings.model_copy(update={"webhook_private": True})


@pytest.fixture
def system(database: Database) -> System:
    return System(database)


@pytest.fixture
def celery(settings: Settings) -> Celery:
    return celery_app(settings)


def all_delivered(database: Database, webhook_id: UUID, count: int) -> bool:
    rows = deliveries_of(database, webhook_id)
    return [row.state for row in rows] == ["delivered"] * count


def test_a_worker_that_is_killed_in_the_middle_of_an_attempt_loses_nothing(
    settings: Settings, system: System, tmp_path: Path
) -> None:
    killed = threading.Event()

    def answer(_received: Received) -> tuple[int, dict[str, str]]:
        killed.wait(300)
        return 200, {}

    with Receiver(answer) as receiver:
        webhook_id, _ = register(system.database, receiver.url())
        finish_one(system, webhook_id)
        with delivering(settings, tmp_path / "first.log", MORTAL) as first:
            receiver.wait_for(1)
            first.kill()
        killed.set()
        [interrupted] = deliveries_of(system.database, webhook_id)
        with delivering(settings, tmp_path / "second.log"):
            eventually(lambda: all_delivered(system.database, webhook_id, 1), 150)

    assert (interrupted.state, interrupted.attempts) == ("pending", 1)
    assert receiver.ids() == [interrupted.id] * 2


def test_what_a_gateway_accepted_before_it_was_killed_is_told(
    settings: Settings, system: System, tmp_path: Path
) -> None:
    photograph = encode(photo_crops(1)[0])
    with Receiver() as receiver, delivering(settings, tmp_path / "webhooks.log"):
        webhook_id, _ = register(system.database, receiver.url())
        with running_gateway(settings, tmp_path / "gateway.log") as gateway, gateway.client() as http:
            accepted = http.post(
                "/v1/jobs", params={"webhook": str(webhook_id)}, content=photograph, headers=JPEG
            )
            gateway.kill()
        assert accepted.status_code == 202
        job_id = accepted.json()["job_id"]
        system.commit([success(claim) for claim in system.claim([UUID(job_id)])])
        [received] = receiver.wait_for(1)

    assert received.told["data"]["job_id"] == job_id


def test_what_redis_lost_is_published_again(
    settings: Settings, system: System, celery: Celery, client: redis.Redis, tmp_path: Path
) -> None:
    with Receiver() as receiver:
        webhook_id, _ = register(system.database, receiver.url())
        for _ in range(20):
            finish_one(system, webhook_id)
        Dispatcher(system.database, client, celery, Pace(lease_s=2.0)).look()
        # All of them at the first look: jobs that have just ended are not waited for.
        assert client.llen(QUEUE_WEBHOOKS) == 20
        client.flushall()
        with delivering(settings, tmp_path / "webhooks.log"):
            eventually(lambda: all_delivered(system.database, webhook_id, 20), 150)

    assert sorted(receiver.ids()) == [row.id for row in deliveries_of(system.database, webhook_id)]


def test_every_delivery_arrives_however_often_redis_forgets_and_workers_are_killed(
    settings: Settings, system: System, client: redis.Redis, tmp_path: Path
) -> None:
    with Receiver() as receiver:
        webhook_id, _ = register(system.database, receiver.url())
        for round_ in range(2):
            with (
                delivering(settings, tmp_path / f"a{round_}.log", MORTAL) as first,
                delivering(settings, tmp_path / f"b{round_}.log", MORTAL),
            ):
                for _ in range(25):
                    finish_one(system, webhook_id)
                receiver.wait_for(10 * (round_ + 1))
                client.flushall()
                first.kill()
        with delivering(settings, tmp_path / "last.log"):
            eventually(lambda: all_delivered(system.database, webhook_id, 50), 150)

    assert set(receiver.ids()) == {row.id for row in deliveries_of(system.database, webhook_id)}


@pytest.mark.parametrize("database_url", ["postgres"], indirect=True)
def test_a_database_that_goes_away_delays_deliveries_and_loses_none(
    settings: Settings, system: System, postgres_server: PostgresServer, tmp_path: Path
) -> None:
    is_away = threading.Event()

    def answer(_received: Received) -> tuple[int, dict[str, str]]:
        is_away.wait(300)  # so that no outcome can be recorded
        return 200, {}

    with Receiver(answer) as receiver:
        webhook_id, _ = register(system.database, receiver.url())
        for _ in range(5):
            finish_one(system, webhook_id)
        with delivering(settings, tmp_path / "webhooks.log", PATIENT.replace("900", str(LEASE_S))) as worker:
            receiver.wait_for(5)
            system.database.close()  # else our own connections end too, and one may be used before that shows
            with postgres_server.outage(settings.database_url):
                is_away.set()
                eventually(lambda: worker.log.read_text().count("is tried again") >= 5, 150)
            eventually(lambda: all_delivered(system.database, webhook_id, 5), 150)
            assert worker.terminate() == 0

    assert "Traceback" not in worker.log.read_text()
    assert len(receiver.ids()) == 10  # at least once: these were told twice, under the same ids
    assert len(set(receiver.ids())) == 5


def test_two_workers_deliver_each_once_when_nothing_fails(
    settings: Settings, system: System, tmp_path: Path
) -> None:
    with (
        Receiver() as receiver,
        delivering(settings, tmp_path / "a.log", PATIENT),
        delivering(settings, tmp_path / "b.log", PATIENT),
    ):
        webhook_id, _ = register(system.database, receiver.url())
        for _ in range(100):
            finish_one(system, webhook_id)
        eventually(lambda: all_delivered(system.database, webhook_id, 100), 200)

    ids = receiver.ids()
    assert len(ids) == len(set(ids)) == 100


def test_a_receiver_that_hangs_does_not_hold_up_the_others(
    settings: Settings, system: System, tmp_path: Path
) -> None:
    is_over = threading.Event()

    def answer(received: Received) -> tuple[int, dict[str, str]]:
        if received.path == "/hangs":
            is_over.wait(400)
        return 200, {}

    with Receiver(answer) as receiver:
        hangs, _ = register(system.database, receiver.url("/hangs"))
        good, _ = register(system.database, receiver.url("/good"))
        for _ in range(120):
            finish_one(system, hangs)
        for _ in range(20):
            finish_one(system, good)
        with delivering(settings, tmp_path / "webhooks.log", PATIENT):
            eventually(lambda: all_delivered(system.database, good, 20), 200)
            assert not is_over.is_set()
            hung = [received for received in receiver.received if received.path == "/hangs"]
            is_over.set()

    assert 1 <= len(hung) <= 8


def test_a_receiver_that_hangs_is_cut(settings: Settings, system: System, tmp_path: Path) -> None:
    is_over = threading.Event()

    def answer(_received: Received) -> tuple[int, dict[str, str]]:
        is_over.wait(300)
        return 200, {}

    with Receiver(answer) as receiver, delivering(settings, tmp_path / "webhooks.log", HASTY):
        webhook_id, _ = register(system.database, receiver.url())
        finish_one(system, webhook_id)
        [row] = eventually(
            lambda: [row for row in deliveries_of(system.database, webhook_id) if row.last_error], 150
        )
        is_over.set()

    assert row.last_error is not None
    assert "no full answer in 1.5 s" in row.last_error


def test_a_worker_that_stops_ends_what_it_has_begun(
    settings: Settings, system: System, tmp_path: Path
) -> None:
    is_stopping = threading.Event()

    def answer(_received: Received) -> tuple[int, dict[str, str]]:
        is_stopping.wait(300)
        return 200, {}

    with Receiver(answer) as receiver:
        webhook_id, _ = register(system.database, receiver.url())
        finish_one(system, webhook_id)
        worker = WebhookWorker(settings, tmp_path / "webhooks.log", PATIENT)
        try:
            receiver.wait_for(1)
            worker.process.terminate()
            is_stopping.set()
            assert worker.process.wait(150) == 0
        finally:
            worker.kill()

    assert all_delivered(system.database, webhook_id, 1)
    assert len(receiver.received) == 1
    assert "stopped in good order" in worker.log.read_text()
