"""Who may do what: API keys, scopes, tenants, and a gateway that has no keys."""

from __future__ import annotations

import json
import re
from uuid import uuid4

import httpx2
import pytest
from sqlalchemy import select

from alexq_schema import keys
from alexq_schema.db.api_keys import ApiKey
from alexq_schema.db.session import Database
from alexq_schema.keys import Scope
from alexq_schema.settings import Settings
from tests.helpers.eventually import eventually
from tests.helpers.gateway import JPEG, GatewayProcess, make_key
from tests.helpers.nursery import run_alexq
from tests.helpers.open_inference import in_json
from tests.helpers.photos import encode, photo_crops

PHOTOGRAPH = encode(photo_crops(1)[0])


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """One database is enough here."""
    return sqlite_url


def code(answer: httpx2.Response) -> tuple[int, str]:
    return answer.status_code, answer.json().get("code", "")


def test_another_tenants_ids_are_404_on_every_route(gateway: GatewayProcess, settings: Settings) -> None:
    """Every operation of the OpenAPI document that takes an id, with the other's key and these ids."""
    theirs, other = (make_key(settings, tenant, *Scope) for tenant in ("them", "others"))
    with gateway.client(theirs) as client:
        job = client.post("/v1/jobs", content=PHOTOGRAPH, headers=JPEG).json()
        webhook = client.post("/v1/webhooks", json={"url": "https://receiver.example/"}).json()
        document = client.get("/openapi.json").json()
        assert client.get(f"/v1/jobs/{job['job_id']}").status_code == 200

    tried = 0
    with gateway.client(other) as client:
        for template, operations in document["paths"].items():
            if not {"{job_id}", "{submission_id}", "{webhook_id}"} & set(template.split("/")):
                continue
            for method in operations:
                answer = client.request(method, template.format(**job, **webhook))
                kind = "webhook" if template.startswith("/v1/webhooks") else "job"
                assert code(answer) == (404, f"{kind}_not_found"), f"{method} {template}"
                tried += 1
        assert tried >= 13
        assert client.get("/v1/webhooks").json()["webhooks"] == []
        named = client.post(
            "/v1/jobs", params={"webhook": webhook["webhook_id"]}, content=PHOTOGRAPH, headers=JPEG
        )
        assert code(named) == (404, "webhook_not_found")
        assert client.get("/v1/jobs").json()["jobs"] == []
        assert client.get("/v1/jobs", params={"submission_id": job["submission_id"]}).json()["jobs"] == []
        assert client.get("/v1/submissions").json()["submissions"] == []
        by_key = client.post("/v1/jobs", json={"image_key": job["image_key"]})
        assert code(by_key) == (422, "image_not_found")
        same_key = {**JPEG, "Idempotency-Key": "k"}
        assert client.post("/v1/jobs", content=PHOTOGRAPH, headers=same_key).status_code == 202
    with gateway.client(theirs) as client:
        mine = client.post("/v1/jobs", content=PHOTOGRAPH, headers=same_key)
        assert "idempotent-replayed" not in mine.headers
        assert client.get(f"/v1/jobs/{job['job_id']}").json()["state"] == "queued"
        assert client.post("/v1/jobs", json={"image_key": job["image_key"]}).status_code == 202


def test_a_key_allows_what_its_scopes_say(gateway: GatewayProcess, settings: Settings) -> None:
    submit, read, admin = (make_key(settings, "shop", scope) for scope in Scope)

    def statuses(key: str | None) -> list[int]:
        with gateway.client(key) as client:
            return [
                client.post("/v1/jobs", content=PHOTOGRAPH, headers=JPEG).status_code,
                client.get("/v1/jobs").status_code,
                client.delete(f"/v1/jobs/{uuid4()}").status_code,
                client.post(f"/v1/jobs/{uuid4()}/redrive").status_code,
                client.get("/v1/models").status_code,
                client.post("/v2/models/none/infer", json=in_json([PHOTOGRAPH])).status_code,
                client.get("/v2/models/none").status_code,
                client.get("/v2/models/none/ready").status_code,
            ]

    assert statuses(submit) == [202, 403, 404, 403, 403, 404, 403, 403]
    assert statuses(read) == [403, 200, 403, 403, 200, 403, 404, 404]
    assert statuses(admin) == [202, 200, 404, 404, 200, 404, 404, 404]
    # Keys exist by now, so that nobody is let in without one.
    assert statuses(None) == [401] * 8
    assert statuses(keys.new_key()) == [401] * 8
    assert statuses(read[:-1]) == [401] * 8


def test_a_key_is_made_shown_once_listed_and_revoked(
    gateway: GatewayProcess, settings: Settings, database: Database
) -> None:
    made = run_alexq(
        settings, "keys", "create", "shop", "--name", "the web shop", "--scope", "read", "--json"
    )
    assert made.returncode == 0, made.stderr
    key = json.loads(made.stdout)
    listed = run_alexq(settings, "keys", "list")

    assert re.fullmatch(r"alexq_[0-9A-Za-z]{28}", key["key"])
    assert all(part in listed.stdout for part in (key["id"], "shop", "read", "the web shop"))
    assert key["key"] not in listed.stdout
    with database.read() as connection:
        [row] = connection.execute(select(ApiKey.__table__)).all()
    assert row.key_sha256 == keys.hash_of(key["key"])
    assert not any(key["key"] in str(value) for value in row)

    with gateway.client(key["key"]) as client:
        assert client.get("/v1/jobs").status_code == 200
        assert run_alexq(settings, "keys", "revoke", key["id"]).returncode == 0
        eventually(lambda: client.get("/v1/jobs").status_code == 401, what="the revoked key is refused")
    assert "revoked" in run_alexq(settings, "keys", "list").stdout
    with gateway.client() as client:  # a revoked key does not open the door for those who have none
        assert client.get("/v1/jobs").status_code == 401
    assert run_alexq(settings, "keys", "create", "no/tenant").returncode == 2
    assert run_alexq(settings, "keys", "revoke", str(uuid4())).returncode == 2


def test_without_keys_only_this_machine_is_answered(gateway: GatewayProcess) -> None:
    with gateway.client() as client:
        assert client.get("/v1/jobs").status_code == 200
        # A page of another site, by its own name (DNS rebinding) or across sites.
        rebound = client.get("/v1/jobs", headers={"Host": "rebound.example"})
        crossed = client.post(
            "/v1/jobs", content=PHOTOGRAPH, headers={**JPEG, "Origin": "https://evil.example"}
        )
    assert code(rebound) == code(crossed) == (403, "forbidden")


def test_without_keys_it_refuses_to_listen_elsewhere(settings: Settings) -> None:
    elsewhere = settings.model_copy(update={"gateway_address": "0.0.0.0", "gateway_port": 0})

    refused = run_alexq(elsewhere, "gateway")

    assert refused.returncode == 2
    assert "alexq keys create" in refused.stderr


def test_a_key_that_is_given_is_stored_once(settings: Settings, database: Database) -> None:
    given = settings.model_copy(update={"api_key": keys.new_key()})

    for _ in range(2):
        done = run_alexq(given, "keys", "create", "acme", "--given")
        assert (done.returncode, done.stdout) == (0, ""), done.stderr
        assert given.api_key not in done.stderr

    with database.read() as connection:
        [stored] = connection.scalars(select(ApiKey.key_sha256)).all()
    assert stored == keys.hash_of(given.api_key)
    mistyped = given.model_copy(update={"api_key": given.api_key[:-1]})
    refused = run_alexq(mistyped, "keys", "create", "acme", "--given")
    assert refused.returncode == 2
    assert "ALEXQ_API_KEY" in refused.stderr
