"""``alexq webhooks`` on a database, as an operator uses it."""

from __future__ import annotations

import json
from uuid import uuid4

import pytest
from sqlalchemy import select, update

from alexq import doctor
from alexq_schema.db.clock import db_now
from alexq_schema.db.deliveries import WebhookDelivery
from alexq_schema.db.session import Database
from alexq_schema.db.webhooks import Webhook
from alexq_schema.settings import Settings
from tests.helpers.nursery import run_alexq
from tests.helpers.system import System
from tests.helpers.webhooks import deliveries_of, finish_one, register

URL = "https://receiver.example/hook"


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """One database is enough here."""
    return sqlite_url


@pytest.fixture
def run(settings: Settings) -> Run:
    return Run(settings)


class Run:
    """Runs ``alexq webhooks …``."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def __call__(self, *arguments: str, code: int = 0) -> str:
        """Return what it says on stdout, or, where it fails, on stderr."""
        done = run_alexq(self._settings, "webhooks", *arguments)
        assert done.returncode == code, done.stderr
        return done.stderr if code else done.stdout


def test_a_webhook_is_made_shown_once_rotated_and_removed(run: Run, database: Database) -> None:
    made = json.loads(run("add", URL, "--tenant", "shop", "--json"))
    rotated = json.loads(run("rotate", made["webhook_id"], "--json"))
    listed = run("list")
    [row] = [json.loads(line) for line in run("list", "--json").splitlines()]

    assert made["secret"].startswith("whsec_")
    assert made["secret"] != rotated["secret"]
    assert all(part in listed for part in (made["webhook_id"], "shop", URL, "enabled"))
    assert not any(secret in listed + str(row) for secret in (made["secret"], rotated["secret"]))
    assert (row["webhook_id"], row["tenant"], row["disabled_at"]) == (made["webhook_id"], "shop", None)
    with database.read() as connection:
        assert connection.execute(select(Webhook.secret)).scalar_one() == rotated["secret"]
    run("remove", made["webhook_id"])
    assert run("list") == ""


def test_what_failed_is_seen_and_replayed(run: Run, database: Database) -> None:
    system = System(database)
    webhook_id, _ = register(database, URL)
    for _ in range(2):
        finish_one(system, webhook_id)
    with database.begin() as connection:
        values = {"state": "failed", "last_status": 500, "last_error": "status 500: \x1b[31mno"}
        connection.execute(update(WebhookDelivery).values(values))
    one, other = [str(row.id) for row in deliveries_of(database, webhook_id)]

    rows = [json.loads(line) for line in run("deliveries", str(webhook_id), "--json").splitlines()]
    lines = run("deliveries", str(webhook_id), "--state", "failed")
    assert [row["delivery_id"] for row in rows] == [other, one]
    assert (rows[0]["state"], rows[0]["last_status"]) == ("failed", 500)
    assert "\x1b" not in lines
    assert "status 500" in lines

    assert run("replay", str(webhook_id), one).startswith("1 ")
    assert [row.state for row in deliveries_of(database, webhook_id)] == ["pending", "failed"]
    assert run("replay", str(webhook_id), "--since", "2999-01-01").startswith("0 ")
    assert run("replay", str(webhook_id)).startswith("1 ")
    assert [row.state for row in deliveries_of(database, webhook_id)] == ["pending"] * 2
    with database.begin() as connection:
        connection.execute(update(Webhook).values(disabled_at=db_now(), disabled_reason="it answered 410"))
    assert "disabled: it answered 410" in run("list")
    run("enable", str(webhook_id))
    assert "enabled" in run("list")


def test_what_makes_no_sense_is_refused(run: Run, database: Database) -> None:
    webhook_id, _ = register(database, URL)
    unknown = str(uuid4())

    assert "outward_refused" in run("add", "http://127.0.0.1/", code=1)
    assert "--tenant" in run("add", URL, "--tenant", "a b", code=2)
    assert "2048 at most" in run("add", f"{URL}/{'a' * 2048}", code=2)
    assert "not both" in run("replay", str(webhook_id), unknown, "--since", "2026-01-01", code=2)
    for command in ("remove", "rotate", "enable", "deliveries", "replay"):
        assert "webhook_not_found" in run(command, unknown, code=1)
    run("replay", "no id", code=2)


def test_the_doctor_says_when_nobody_delivers(settings: Settings, database: Database) -> None:
    settings = settings.model_copy(update={"silent_after_s": 300.0})  # no process is behind these workers
    system = System(database)
    webhook_id, _ = register(database, URL)
    finish_one(system, webhook_id)
    assert doctor.check_workers(settings).ok
    with database.begin() as connection:
        connection.execute(update(WebhookDelivery).values(due_at=db_now(-60.0)))

    check = doctor.check_workers(settings)

    assert not check.ok
    assert "1 webhook deliveries" in check.found
    assert "alexq webhooks worker" in check.fix
