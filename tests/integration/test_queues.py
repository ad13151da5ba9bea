"""Named queues on real databases and a real broker, without workers."""

from __future__ import annotations

import json
from uuid import UUID

import pytest
import redis
from celery import Celery
from sqlalchemy import select

from alexq.doctor import check_workers
from alexq_monitor.advice import Severity, Situation, advise
from alexq_producer import Producer
from alexq_schema.celery_settings import publish
from alexq_schema.db import publishing
from alexq_schema.db.clock import db_now
from alexq_schema.db.session import Database
from alexq_schema.db.tables import Job as JobRow
from alexq_schema.messages import Unpublished
from alexq_schema.names import QUEUES, Lane, QueueLane, lanes_of
from alexq_schema.settings import Settings
from alexq_schema.work import Errored
from tests.helpers.eventually import eventually
from tests.helpers.gateway import JPEG, GatewayProcess
from tests.helpers.nursery import run_alexq
from tests.helpers.open_inference import in_json
from tests.helpers.photos import encode, photo_crops
from tests.helpers.system import System

PHOTOGRAPH = encode(photo_crops(1)[0])
VIP = [lane.name for lane in lanes_of("vip")]


@pytest.fixture
def system(database: Database) -> System:
    return System(database)


def lengths(client: redis.Redis) -> dict[str, int]:
    return {name: length for name in [*QUEUES, *VIP] if (length := client.llen(name))}  # type: ignore[misc]


def queues_of(database: Database) -> dict[UUID, str]:
    with database.read() as connection:
        rows = connection.execute(select(JobRow.id, JobRow.queue))
        return {row.id: row.queue for row in rows}


def test_a_submission_goes_to_its_queue(producer: Producer, client: redis.Redis, database: Database) -> None:
    ours = producer.submit([PHOTOGRAPH, PHOTOGRAPH], queue="vip")
    producer.submit(PHOTOGRAPH, queue="vip")
    others = producer.submit(PHOTOGRAPH)

    assert lengths(client) == {"alexq.classify": 1, "alexq.classify@vip": 1, "alexq.classify.bulk@vip": 1}
    found = queues_of(database)
    assert {found[job_id] for job_id in ours.job_ids} == {"vip"}
    assert [found[job_id] for job_id in others.job_ids] == [""]


def test_a_worker_claims_only_what_its_queue_has(system: System) -> None:
    vip, others = system.queue(3, queue="vip"), system.queue(2)

    assert system.claim([*vip, *others], system.other, queue="gold") == []
    assert {claim.job_id for claim in system.claim([*vip, *others], queue="vip")} == set(vip)
    assert {claim.job_id for claim in system.claim([*vip, *others], system.other)} == set(others)


def test_a_job_keeps_its_queue_through_errors_and_redrive(system: System) -> None:
    [job_id] = system.queue(1, queue="vip")
    for _ in range(2):
        [claim] = system.claim([job_id], queue="vip")
        system.commit([Errored(claim, "code", "why")])
    assert system.states([job_id]) == ["dead"]
    system.redrive([job_id])

    with system.database.begin() as connection:
        [found] = publishing.take_unpublished(connection, limit=10)
    assert (found.job_id, found.queue) == (job_id, "vip")
    assert system.claim([job_id]) == []


def test_what_proves_a_message_lost_proves_it_of_its_own_queue_only(system: System) -> None:
    mine, running, theirs = system.queue(2, queue="vip"), system.queue(1, queue="vip"), system.queue(2)
    system.change([*mine, *theirs], published_at=db_now(-100.0))
    system.claim(running, queue="vip")  # it was published much later than both

    assert system.take_unpublished() == mine
    emptied = [QueueLane("vip", Lane.BULK), QueueLane("gold", Lane.BULK)]
    assert system.take_unpublished(emptied=emptied, lost_after_s=60) == []
    assert system.take_unpublished(emptied=lanes_of(""), lost_after_s=60) == theirs


def test_no_queue_waits_until_another_one_is_published(system: System) -> None:
    """Interactive jobs of every queue go out before the bulk of any."""
    bulk = system.queue(5)
    single = system.queue(2, lane=Lane.INTERACTIVE, queue="vip")
    with system.database.begin() as connection:
        publishing.mark_unpublished(connection, [*bulk, *single])

    assert system.take_unpublished(limit=2) == single


def test_messages_of_many_queues_are_published_together(sender: Celery, client: redis.Redis) -> None:
    ids = [UUID(int=number) for number in range(6)]
    jobs = [
        Unpublished(job_id, ids[0], "alexq.classify_jobs", Lane.BULK, queue)
        for job_id, queue in zip(ids, ["", "vip", "gold"] * 2, strict=True)
    ]

    publish(sender, jobs)

    assert lengths(client) == {"alexq.classify.bulk": 1, "alexq.classify.bulk@vip": 1}
    assert client.llen("alexq.classify.bulk@gold") == 1


def test_a_tenants_key_leads_to_its_queue_and_to_no_other(
    gateway: GatewayProcess, settings: Settings, database: Database, client: redis.Redis
) -> None:
    made = run_alexq(settings, "keys", "create", "shop", "--queue", "vip", "--json")
    vip = json.loads(made.stdout)["key"]
    plain = run_alexq(settings, "keys", "create", "other").stdout.strip()
    listed = [json.loads(line) for line in run_alexq(settings, "keys", "list", "--json").stdout.splitlines()]
    assert {(key["tenant"], key["queue"]) for key in listed} == {("shop", "vip"), ("other", "")}
    assert "queue vip" in run_alexq(settings, "keys", "list").stdout

    with gateway.client(vip) as shop, gateway.client(plain) as other:
        one = shop.post("/v1/jobs", params={"queue": "gold"}, content=PHOTOGRAPH, headers=JPEG).json()
        files = [("images", ("a.jpg", PHOTOGRAPH)), ("images", ("b.jpg", PHOTOGRAPH))]
        many = shop.post("/v1/submissions", params={"queue": "gold"}, files=files).json()
        theirs = other.post("/v1/jobs", params={"queue": "vip"}, content=PHOTOGRAPH, headers=JPEG).json()
        inferred = shop.post(
            "/v2/models/alexnet/infer", json=in_json([PHOTOGRAPH]), headers={"Prefer": "wait=1"}
        )

    assert inferred.status_code != 200
    found = queues_of(database)
    assert {found[UUID(job_id)] for job_id in (one["job_id"], *many["job_ids"])} == {"vip"}
    assert found.pop(UUID(theirs["job_id"])) == ""
    assert set(found.values()) == {"vip"}
    expected = {"alexq.classify", "alexq.classify@vip", "alexq.classify.bulk@vip"}
    eventually(lambda: lengths(client).keys() == expected, what="all are published: it may follow the answer")


def test_the_doctor_names_the_queue_that_nobody_serves(system: System, settings: Settings) -> None:
    settings = settings.model_copy(update={"silent_after_s": 300.0})  # no process is behind these workers
    assert check_workers(settings).ok
    system.queue(3, queue="vip")

    check = check_workers(settings)

    assert not check.ok
    assert check.found == "2 alive, 3 jobs wait, 3 of them in the queue vip, which no worker serves"
    assert check.fix == "alexq worker --queue vip"


def test_the_overview_says_so_too() -> None:
    now = Situation(waiting=3, workers=2, last_seen_s=1.0, unserved=(("vip", 3),), out_per_s=0.0)

    [said] = advise(now)

    assert said.severity is Severity.BAD
    assert said.what == "3 jobs wait in the queue vip, which no worker serves."
    assert "alexq worker --queue vip" in said.todo
    [said] = advise(Situation(waiting=1, workers=2, last_seen_s=1.0, unserved=(("", 1),)))
    assert said.what == "1 job waits in the default queue, and every worker serves another."
