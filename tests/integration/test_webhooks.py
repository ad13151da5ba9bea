"""Webhooks from end to end: a real gateway, a real webhook worker, a real receiver, the stock library."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx2
import pytest
from sqlalchemy import func, select
from standardwebhooks import Webhook as Verifier
from standardwebhooks import WebhookVerificationError

from alexq.stack.environment import environment
from alexq_schema.db.clock import db_now
from alexq_schema.db.deliveries import WebhookDelivery
from alexq_schema.db.session import Database
from alexq_schema.keys import Scope
from alexq_schema.settings import Settings
from tests.helpers import nursery
from tests.helpers.eventually import eventually
from tests.helpers.gateway import JPEG, GatewayProcess, make_key, running_gateway
from tests.helpers.photos import encode, photo_crops
from tests.helpers.ports import free_port
from tests.helpers.system import System, success
from tests.helpers.webhooks import Received, Receiver, delivering

RECIPE = Path(__file__).parents[2] / "docs/howto/webhooks.md"
PHOTOGRAPHS = [encode(crop) for crop in photo_crops(3)]


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """The outbox's statements and the faults are tested on both databases."""
    return sqlite_url


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Settings of a system whose receivers are on loopback."""
    return settings.model_copy(update={"webhook_private": True})


@pytest.fixture
def gateway(settings: Settings, tmp_path: Path) -> Iterator[GatewayProcess]:
    with running_gateway(settings, tmp_path / "gateway.log") as gateway:
        yield gateway


@pytest.fixture
def http(gateway: GatewayProcess) -> Iterator[httpx2.Client]:
    with gateway.client() as http:
        yield http


@pytest.fixture
def system(database: Database) -> System:
    return System(database)


def register(http: httpx2.Client, url: str) -> tuple[str, str]:
    answer = http.post("/v1/webhooks", json={"url": url})
    assert answer.status_code == 201, answer.text
    made = answer.json()
    assert answer.headers["location"] == f"/v1/webhooks/{made['webhook_id']}"
    return made["webhook_id"], made["secret"]


def submit_one(http: httpx2.Client, webhook_id: str) -> UUID:
    answer = http.post(
        "/v1/jobs", params={"webhook": webhook_id, "source": "a.jpg"}, content=PHOTOGRAPHS[0], headers=JPEG
    )
    assert answer.status_code == 202, answer.text
    return UUID(answer.json()["job_id"])


def finish(system: System, *job_ids: UUID) -> None:
    system.commit([success(claim) for claim in system.claim(list(job_ids))])


def deliveries(http: httpx2.Client, webhook_id: str, **params: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = http.get(f"/v1/webhooks/{webhook_id}/deliveries", params=params).json()[
        "deliveries"
    ]
    return found


def in_state(http: httpx2.Client, webhook_id: str, state: str) -> dict[str, Any]:
    """Return the newest delivery, when it is in this state."""

    def found() -> dict[str, Any] | None:
        [newest, *_] = deliveries(http, webhook_id)
        return newest if newest["state"] == state else None

    told = eventually(found, what=f"it is {state}")
    assert told is not None
    return told


def verified(received: Received, secret: str) -> Any:
    return Verifier(secret).verify(received.body, dict(received.headers))


def test_a_job_is_told_signed_as_the_stock_library_expects(
    http: httpx2.Client, system: System, settings: Settings, tmp_path: Path
) -> None:
    with Receiver() as receiver, delivering(settings, tmp_path / "webhooks.log") as worker:
        webhook_id, secret = register(http, receiver.url("/hook?of=shop"))
        job_id = submit_one(http, webhook_id)
        [waiting] = deliveries(http, webhook_id)
        finish(system, job_id)
        [received] = receiver.wait_for(1)
        delivered = in_state(http, webhook_id, "delivered")
        job = http.get(f"/v1/jobs/{job_id}").json()
        assert worker.terminate() == 0

    assert received.path == "/hook?of=shop"
    told = verified(received, secret)
    assert told == {"type": "job.finished", "timestamp": told["timestamp"], "data": job}
    assert told["data"]["predictions"][0]["label"] == "tabby"
    assert told["timestamp"].startswith(job["finished_at"][:19])
    assert received.headers["content-type"] == "application/json"
    assert str(received.delivery_id) == waiting["delivery_id"] == delivered["delivery_id"]
    assert waiting["state"] == "pending"
    assert (delivered["attempts"], delivered["last_status"], delivered["last_error"]) == (1, 204, None)
    with pytest.raises(WebhookVerificationError):
        Verifier(secret).verify(received.body.replace(b"tabby", b"tiger"), dict(received.headers))
    assert "Traceback" not in worker.log.read_text()


def test_a_submission_is_told_once_with_its_counts(
    http: httpx2.Client, system: System, settings: Settings, tmp_path: Path
) -> None:
    with Receiver() as receiver, delivering(settings, tmp_path / "webhooks.log"):
        webhook_id, secret = register(http, receiver.url())
        files = [("images", (f"{n}.jpg", data, "image/jpeg")) for n, data in enumerate(PHOTOGRAPHS)]
        accepted = http.post("/v1/submissions", params={"webhook": webhook_id}, files=files).json()
        finish(system, *map(UUID, accepted["job_ids"][:2]))
        http.delete(f"/v1/jobs/{accepted['job_ids'][2]}")
        [received] = receiver.wait_for(1)
        in_state(http, webhook_id, "delivered")

    told = verified(received, secret)
    assert told["type"] == "submission.finished"
    assert told["data"] == {
        "submission_id": accepted["submission_id"],
        "total": 3,
        "counts": {"cancelled": 1, "succeeded": 2},
        "results": f"/v1/submissions/{accepted['submission_id']}/results",
    }


def is_listening(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=60).close()
    except OSError:
        return False
    return True


def test_the_recipes_receiver_understands_it(
    http: httpx2.Client, system: System, settings: Settings, tmp_path: Path
) -> None:
    port = free_port()
    [program] = re.findall(r"```python\n(.*?)```", RECIPE.read_text(), re.DOTALL)
    webhook_id, secret = register(http, f"http://127.0.0.1:{port}/")
    receiver = subprocess.Popen(
        [sys.executable, "-c", program.replace("9000", str(port))],
        env={**environment(settings), "WEBHOOK_SECRET": secret},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        eventually(lambda: is_listening(port), 150, what="the recipe's program listens")
        with delivering(settings, tmp_path / "webhooks.log"):
            job_id = submit_one(http, webhook_id)
            finish(system, job_id)
            in_state(http, webhook_id, "delivered")
    finally:
        receiver.kill()
    printed, _ = receiver.communicate()

    assert printed.startswith("job.finished ")
    assert str(job_id) in printed


def test_after_a_rotation_both_secrets_verify(
    http: httpx2.Client, system: System, settings: Settings, tmp_path: Path
) -> None:
    with Receiver() as receiver, delivering(settings, tmp_path / "webhooks.log"):
        webhook_id, old = register(http, receiver.url())
        new = http.post(f"/v1/webhooks/{webhook_id}/rotate").json()["secret"]
        finish(system, submit_one(http, webhook_id))
        [received] = receiver.wait_for(1)

    assert old != new
    assert len(received.headers["webhook-signature"].split(" ")) == 2
    assert verified(received, old) == verified(received, new)
    shown = http.get(f"/v1/webhooks/{webhook_id}").text + http.get("/v1/webhooks").text
    assert old not in shown
    assert new not in shown


def test_it_is_tried_again_under_one_id_and_given_up_after_ten_times_until_it_is_replayed(
    http: httpx2.Client, system: System, settings: Settings, tmp_path: Path
) -> None:
    statuses = [302, 404, 500, 503, 429, *[500] * 5]
    redirects = {"Location": "http://127.0.0.1:1/"}

    def answer(_received: Received) -> tuple[int, dict[str, str]]:
        return (statuses.pop(0), redirects) if statuses else (200, {})

    with Receiver(answer) as receiver, delivering(settings, tmp_path / "webhooks.log"):
        webhook_id, secret = register(http, receiver.url())
        finish(system, submit_one(http, webhook_id))
        lost = in_state(http, webhook_id, "failed")
        assert [one["delivery_id"] for one in deliveries(http, webhook_id, state="failed")] == [
            lost["delivery_id"]
        ]
        assert (lost["attempts"], lost["last_status"]) == (10, 500)
        assert "500" in lost["last_error"]
        assert len(receiver.received) == 10
        replayed = http.post(f"/v1/webhooks/{webhook_id}/replay")
        assert (replayed.status_code, replayed.json()) == (202, {"replayed": 1})
        done = in_state(http, webhook_id, "delivered")

    assert done["attempts"] == 11
    assert len(set(receiver.ids())) == 1
    assert all(verified(received, secret)["type"] == "job.finished" for received in receiver.received)


def test_410_disables_the_webhook_and_what_is_pending_stays(
    http: httpx2.Client, system: System, settings: Settings, tmp_path: Path
) -> None:
    is_gone = True
    with (
        Receiver(lambda _received: (410 if is_gone else 200, {})) as receiver,
        delivering(settings, tmp_path / "webhooks.log"),
    ):
        webhook_id, _ = register(http, receiver.url())
        finish(system, submit_one(http, webhook_id))
        receiver.wait_for(1)
        disabled = eventually(
            lambda: (told := http.get(f"/v1/webhooks/{webhook_id}").json())["disabled_at"] and told
        )
        finish(system, submit_one(http, webhook_id))  # still taken; it waits
        pending = deliveries(http, webhook_id)
        eventually(lambda: _was_looked_at(http, webhook_id, system))
        assert len(receiver.received) == 1
        is_gone = False
        assert http.post(f"/v1/webhooks/{webhook_id}/enable").json()["disabled_at"] is None
        receiver.wait_for(3)
        eventually(lambda: len(deliveries(http, webhook_id, state="delivered")) == 2)

    assert "410" in disabled["disabled_reason"]
    assert [one["state"] for one in pending] == ["pending"] * 2
    assert all("disabled" in one["last_error"] for one in pending)


def _was_looked_at(http: httpx2.Client, webhook_id: str, system: System) -> bool:
    """Return whether a worker looked at what is pending, and put it off."""
    with system.database.read() as connection:
        earliest, now = connection.execute(select(func.min(WebhookDelivery.due_at), db_now())).one()
    return bool(earliest > now)


def test_a_receiver_is_left_alone_as_long_as_it_asks(
    http: httpx2.Client, system: System, settings: Settings, tmp_path: Path
) -> None:
    with (
        Receiver(lambda _received: (503, {"Retry-After": "120"})) as receiver,
        delivering(settings, tmp_path / "webhooks.log"),
    ):
        webhook_id, _ = register(http, receiver.url())
        finish(system, submit_one(http, webhook_id))
        receiver.wait_for(1)
        eventually(lambda: deliveries(http, webhook_id)[0]["last_error"])
        with system.database.read() as connection:
            due_at, now = connection.execute(select(WebhookDelivery.due_at, db_now())).one()

    assert 60 < (due_at - now).total_seconds() <= 120  # the schedule's own pause is 0.2 s here


def test_a_name_that_leads_inside_by_now_is_refused_at_delivery(
    settings: Settings, system: System, tmp_path: Path
) -> None:
    """``localhost`` stands for a name whose address has changed since the webhook was registered."""
    strict = settings.model_copy(update={"webhook_private": False})
    with (
        Receiver() as receiver,
        running_gateway(strict, tmp_path / "gateway.log") as gateway,
        gateway.client() as http,
    ):
        webhook_id, _ = register(http, receiver.url(host="localhost"))
        finish(system, submit_one(http, webhook_id))
        with delivering(strict, tmp_path / "webhooks.log"):
            told = eventually(
                lambda: [one for one in deliveries(http, webhook_id) if one["last_error"]],
                what="it is refused",
            )

    assert "no address" in told[0]["last_error"]
    assert told[0]["last_status"] is None
    assert receiver.received == []


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/hook",
        "http://[::1]/",
        "http://10.0.0.1/hook",
        "http://169.254.169.254/latest/meta-data",
        "ftp://receiver.example/",
        "https://user:secret@receiver.example/",
        "not a url",
        "",
    ],
)
def test_a_url_that_leads_nowhere_is_refused_when_it_is_registered(
    settings: Settings, tmp_path: Path, url: str
) -> None:
    strict = settings.model_copy(update={"webhook_private": False})
    with running_gateway(strict, tmp_path / "gateway.log") as gateway, gateway.client() as http:
        answer = http.post("/v1/webhooks", json={"url": url})
        broken = http.post("/v1/webhooks", content=b'{"url": 1')

    assert (answer.status_code, answer.json()["code"]) == (422, "outward_refused")
    assert "secret" not in answer.text
    assert (broken.status_code, broken.json()["code"]) == (422, "request_invalid")


def test_it_belongs_to_what_was_asked_under_a_key(http: httpx2.Client) -> None:
    webhook_id, _ = register(http, "https://receiver.example/")
    headers = {**JPEG, "Idempotency-Key": "k"}

    def post(**params: Any) -> httpx2.Response:
        return http.post("/v1/jobs", params=params, content=PHOTOGRAPHS[0], headers=headers)

    first, again, without = post(webhook=webhook_id), post(webhook=webhook_id), post()

    assert (first.status_code, again.headers["idempotent-replayed"]) == (202, "true")
    assert again.json()["job_id"] == first.json()["job_id"]
    assert (without.status_code, without.json()["code"]) == (422, "idempotency_key_reused")
    assert len(deliveries(http, webhook_id)) == 1
    # What was accepted once is answered again, whatever has become of the webhook.
    assert http.delete(f"/v1/webhooks/{webhook_id}").status_code == 204
    assert post(webhook=webhook_id).json()["job_id"] == first.json()["job_id"]


def test_an_unknown_webhook_accepts_nothing(http: httpx2.Client, gateway: GatewayProcess) -> None:
    files = [("images", ("a.jpg", PHOTOGRAPHS[0], "image/jpeg"))]
    refused = [
        http.post("/v1/jobs", params={"webhook": str(uuid4())}, content=PHOTOGRAPHS[0], headers=JPEG),
        http.post("/v1/submissions", params={"webhook": str(uuid4())}, files=files),
    ]

    assert [(one.status_code, one.json()["code"]) for one in refused] == [(404, "webhook_not_found")] * 2
    assert http.get("/v1/jobs").json()["jobs"] == []


def test_a_key_may_do_with_webhooks_what_its_scopes_say(gateway: GatewayProcess, settings: Settings) -> None:
    submit, read, admin = (make_key(settings, "shop", scope) for scope in Scope)
    other = make_key(settings, "other", *Scope)
    with gateway.client(admin) as http:
        webhook_id, _ = register(http, "https://receiver.example/")

    def statuses(key: str) -> list[int]:
        one = f"/v1/webhooks/{webhook_id}"
        with gateway.client(key) as http:
            return [
                http.post("/v1/webhooks", json={"url": "https://receiver.example/"}).status_code,
                http.get("/v1/webhooks").status_code,
                http.get(f"{one}/deliveries").status_code,
                http.post(f"{one}/rotate").status_code,
                http.post(f"{one}/enable").status_code,
                http.post(f"{one}/replay").status_code,
                http.post(
                    "/v1/jobs", params={"webhook": webhook_id}, content=PHOTOGRAPHS[0], headers=JPEG
                ).status_code,
            ]

    assert statuses(submit) == [403, 403, 403, 403, 403, 403, 202]
    assert statuses(read) == [403, 200, 200, 403, 403, 403, 403]
    assert statuses(admin) == [201, 200, 200, 200, 200, 202, 202]
    assert statuses(other) == [201, 200, 404, 404, 404, 404, 404]
    with gateway.client(other) as http:
        assert [one["webhook_id"] for one in http.get("/v1/webhooks").json()["webhooks"]] != [webhook_id]


def test_pages_of_webhooks_and_deliveries_lead_on(http: httpx2.Client) -> None:
    ids = [register(http, f"https://receiver.example/{number}")[0] for number in range(3)]
    for _ in range(3):
        submit_one(http, ids[0])
    for path, key, name in (
        ("/v1/webhooks", "webhooks", "webhook_id"),
        (f"/v1/webhooks/{ids[0]}/deliveries", "deliveries", "delivery_id"),
    ):
        first = http.get(path, params={"limit": 2}).json()
        second = http.get(path, params={"limit": 2, "cursor": first["next_cursor"]}).json()
        seen = [one[name] for one in (*first[key], *second[key])]
        assert len(set(seen)) == 3
        assert seen == sorted(seen, reverse=True)
        assert second["next_cursor"] is None
        assert http.get(path, params={"cursor": "x"}).status_code == 422


@pytest.mark.parametrize("missing", ["database_url", "broker_url"])
def test_it_ends_with_3_where_a_service_is_away(settings: Settings, tmp_path: Path, missing: str) -> None:
    away = {"database_url": "postgresql://u@127.0.0.1:1/x", "broker_url": "redis://127.0.0.1:1/0"}[missing]
    log = tmp_path / "webhooks.log"
    settings = settings.model_copy(update={missing: away})
    process = nursery.start(["-m", "alexq_producer.webhooks"], log=log, env=environment(settings))

    assert process.wait(200) == 3
    assert f"error [{missing.removesuffix('_url')}_unavailable]" in log.read_text()
    assert "Traceback" not in log.read_text()
