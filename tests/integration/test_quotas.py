"""How much a tenant may have unfinished, and how much may wait: real gateways on both databases."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID

import httpx2

from alexq_schema.db import jobs, queries
from alexq_schema.db.clock import db_now
from alexq_schema.db.session import Database
from alexq_schema.names import Lane
from alexq_schema.settings import Settings
from tests.helpers.eventually import eventually
from tests.helpers.gateway import JPEG, GatewayProcess, make_key, running_gateway
from tests.helpers.photos import encode, photo_crops
from tests.helpers.system import System, success

PHOTOGRAPH = encode(photo_crops(1)[0])


@contextmanager
def limited(settings: Settings, tmp_path: Path, **limits: object) -> Iterator[GatewayProcess]:
    with running_gateway(settings.model_copy(update=limits), tmp_path / "gateway.log") as gateway:
        yield gateway


def post(client: httpx2.Client, lane: Lane = Lane.INTERACTIVE) -> httpx2.Response:
    return client.post("/v1/jobs", content=PHOTOGRAPH, headers=JPEG, params={"lane": lane})


def post_many(client: httpx2.Client, count: int, key: str | None = None) -> httpx2.Response:
    files = [("images", (f"{number}.jpg", PHOTOGRAPH)) for number in range(count)]
    return client.post("/v1/submissions", files=files, headers={"Idempotency-Key": key} if key else {})


def says(answer: httpx2.Response) -> tuple[int, str]:
    return answer.status_code, answer.json().get("code", "")


def accepted(answer: Callable[[], httpx2.Response]) -> Callable[[], bool]:
    return lambda: answer().status_code == 202


def jobs_in(database: Database) -> int:
    with database.read() as connection:
        return sum(queries.counts(connection).values())


def stored_files(settings: Settings) -> list[Path]:
    return [path for path in (Path(settings.data_dir) / "images").rglob("*") if path.is_file()]


def test_fifty_at_once_get_what_the_quota_has_left_and_what_ends_makes_room(
    settings: Settings, tmp_path: Path, database: Database
) -> None:
    one, other = (make_key(settings, tenant) for tenant in ("one", "other"))
    system = System(database)
    with limited(settings, tmp_path, max_queued_jobs_per_tenant=10) as gateway, gateway.client(one) as client:
        with ThreadPoolExecutor(50) as threads:
            answers = list(threads.map(lambda _: post(client), range(50)))
        with gateway.client(other) as of_another:
            assert post(of_another).status_code == 202

        taken = [UUID(answer.json()["job_id"]) for answer in answers if answer.status_code == 202]
        refused = [answer for answer in answers if answer.status_code != 202]
        assert (len(taken), {says(answer) for answer in refused}) == (10, {(429, "quota_exceeded")})
        assert all(int(answer.headers["retry-after"]) >= 1 for answer in refused)
        assert jobs_in(database) == 11

        running = system.claim(taken[:3])
        assert says(post(client)) == (429, "quota_exceeded")  # what runs is unfinished
        system.commit([success(claim) for claim in running])
        with database.begin() as connection:
            jobs.cancel(connection, taken[3:5], actor="me")
        for _ in range(5):
            eventually(accepted(lambda: post(client)), what="there is room")
        assert says(post(client)) == (429, "quota_exceeded")
        assert jobs_in(database) == 16


def test_a_request_that_does_not_fit_leaves_nothing_and_takes_no_room(
    settings: Settings, tmp_path: Path, database: Database
) -> None:
    with limited(settings, tmp_path, max_queued_jobs_per_tenant=10) as gateway, gateway.client() as client:
        assert says(post_many(client, 11)) == (413, "request_too_large")  # never, so not retryable
        assert post_many(client, 8).status_code == 202
        before = stored_files(settings)
        assert says(post_many(client, 3)) == (429, "quota_exceeded")
        assert (jobs_in(database), stored_files(settings)) == (8, before)
        assert post_many(client, 2).status_code == 202


def test_a_request_that_was_accepted_may_be_repeated_whatever_the_limits_say(
    settings: Settings, tmp_path: Path, database: Database
) -> None:
    limits = {"max_queued_jobs_per_tenant": 4, "gateway_rate": "5/hour"}
    with limited(settings, tmp_path, **limits) as gateway, gateway.client() as client:
        first = post_many(client, 4, key="one")
        system = System(database)
        job_ids = [UUID(job_id) for job_id in first.json()["job_ids"]]
        system.commit([success(claim) for claim in system.claim(job_ids[:2])])
        repeated = [post_many(client, 4, key="one") for _ in range(3)]  # at first the quota, then the rate
        another = post_many(client, 4, key="another")

    assert first.status_code == 202
    for answer in repeated:
        assert answer.json() == first.json()
        assert answer.headers["idempotent-replayed"] == "true"
    assert says(another)[0] == 429
    assert jobs_in(database) == 4


def test_bytes_have_a_quota_of_their_own(settings: Settings, tmp_path: Path, database: Database) -> None:
    quota = int(2.5 * len(PHOTOGRAPH))
    with (
        limited(settings, tmp_path, max_queued_bytes_per_tenant=quota) as gateway,
        gateway.client() as client,
    ):
        assert says(post_many(client, 3)) == (413, "request_too_large")
        assert stored_files(settings) == []
        assert post_many(client, 2).status_code == 202
        refused = post(client)

    assert says(refused) == (429, "quota_exceeded")
    assert f"{2 * len(PHOTOGRAPH):,} bytes" in refused.json()["detail"]
    assert jobs_in(database) == 2


def test_a_second_gateway_sees_what_the_first_accepted(settings: Settings, tmp_path: Path) -> None:
    with (
        limited(settings, tmp_path, max_queued_jobs_per_tenant=2) as first,
        running_gateway(first.settings, tmp_path / "second.log") as second,
        first.client() as one,
        second.client() as other,
    ):
        assert post_many(one, 2).status_code == 202
        assert says(post(other)) == (429, "quota_exceeded")


def age(system: System, job_ids: list[UUID], seconds: float) -> None:
    system.change(job_ids, published_at=db_now(-seconds))


def test_a_lane_is_full_when_what_waits_takes_too_long(
    settings: Settings, tmp_path: Path, database: Database
) -> None:
    system = System(database)
    done = system.queue(10)
    system.commit([success(claim) for claim in system.claim(done)])
    with limited(settings, tmp_path, max_drain_s=60) as gateway, gateway.client() as client:
        assert post(client, Lane.BULK).status_code == 202  # nothing waits

        bulk = system.queue(100)
        age(system, bulk, 30)  # 10 in 30 s: 100 take 300 s
        eventually(lambda: says(post(client, Lane.BULK)) == (503, "queue_full"), what="the bulk lane is full")
        refused = post_many(client, 1)
        assert says(refused) == (503, "queue_full")
        assert 200 < int(refused.headers["retry-after"]) < 2_000  # more where all of this takes long
        assert post(client).status_code == 202  # goes before them

        single = system.queue(30, lane=Lane.INTERACTIVE)
        age(system, single, 30)
        eventually(lambda: says(post(client)) == (503, "queue_full"), what="the interactive lane is full too")

        with database.begin() as connection:
            jobs.cancel(connection, single, actor="me")
        eventually(accepted(lambda: post(client)), what="the interactive lane is free")
        assert says(post(client, Lane.BULK)) == (503, "queue_full")
        with database.begin() as connection:
            jobs.cancel(connection, bulk, actor="me")
        eventually(accepted(lambda: post(client, Lane.BULK)), what="the bulk lane is free")


def test_where_nobody_works_the_oldest_jobs_wait_decides(
    settings: Settings, tmp_path: Path, database: Database
) -> None:
    system = System(database)
    waiting = system.queue(100)
    with limited(settings, tmp_path, max_drain_s=60) as gateway, gateway.client() as client:
        age(system, waiting, 20)
        assert post_many(client, 1).status_code == 202
        age(system, waiting, 100)
        eventually(lambda: says(post_many(client, 1)) == (503, "queue_full"), what="it has waited too long")
