"""``GET /v1/submissions/{id}/events``: what a client that is cut off anywhere has in the end."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Sequence
from datetime import timedelta
from uuid import UUID, uuid4

import httpx2
import pytest
import redis
from sqlalchemy import func, select

from alexq_schema.announcing import announce
from alexq_schema.db.session import Database
from alexq_schema.db.tables import Job as JobRow
from alexq_schema.names import finished_channel
from alexq_schema.work import Failed
from tests.helpers.eventually import eventually
from tests.helpers.gateway import GatewayProcess
from tests.helpers.system import System, success


@pytest.fixture
def system(database: Database) -> System:
    return System(database)


class Stream:
    """A client of one submission's events that remembers what came and goes on after it."""

    def __init__(self, client: httpx2.Client, submission_id: UUID, **params: float) -> None:
        self._client, self._params = client, params
        self.path = f"/v1/submissions/{submission_id}/events"
        self.last_id = ""
        self.events: list[tuple[str, dict[str, object]]] = []

    def read(self, max_bytes: float = float("inf")) -> bool:
        """Take up to ``max_bytes`` of the stream, then hang up; return whether it ended by itself."""
        headers = {"Last-Event-ID": self.last_id} if self.last_id else {}
        left, rest = max_bytes, b""
        with self._client.stream("GET", self.path, params=self._params, headers=headers) as answer:
            assert answer.status_code == 200, answer.read()
            for piece in answer.iter_raw():
                taken = piece[: int(min(left, len(piece)))]
                left -= len(taken)
                *events, rest = (rest + taken).split(b"\n\n")
                for event in events:
                    self._take(dict(line.split(": ", 1) for line in event.decode().splitlines()))
                if left <= 0:
                    return False
        return True

    def _take(self, fields: dict[str, str]) -> None:
        self.last_id = fields.get("id", self.last_id)
        if "event" in fields:
            self.events.append((fields["event"], json.loads(fields["data"])))

    def of(self, kind: str) -> list[dict[str, object]]:
        return [data for event, data in self.events if event == kind]

    @property
    def job_ids(self) -> list[UUID]:
        return [UUID(str(job["job_id"])) for job in self.of("job")]


def submission_of(database: Database, job_ids: Sequence[UUID]) -> UUID:
    with database.read() as connection:
        return connection.execute(select(JobRow.submission_id).where(JobRow.id == job_ids[0])).scalar_one()


def in_completion_order(database: Database, submission_id: UUID) -> list[UUID]:
    with database.read() as connection:
        statement = select(JobRow.id).where(JobRow.submission_id == submission_id)
        return list(connection.execute(statement.order_by(JobRow.finished_at, JobRow.id)).scalars())


def finish(system: System, job_ids: Sequence[UUID], *, at_a_time: int) -> None:
    for start in range(0, len(job_ids), at_a_time):
        claims = system.claim(list(job_ids[start : start + at_a_time]))
        system.commit([success(claim) for claim in claims])


def test_finished_jobs_come_in_completion_order_and_then_the_end(
    gateway: GatewayProcess, system: System
) -> None:
    job_ids = system.queue(1_200)
    submission_id = submission_of(system.database, job_ids)
    shuffled = random.Random(1).sample(job_ids, len(job_ids))
    finish(system, shuffled, at_a_time=97)

    with gateway.client() as client:
        stream = Stream(client, submission_id)
        assert stream.read()
        headers = client.get(stream.path).headers
        as_job = client.get(f"/v1/jobs/{job_ids[0]}").json()
        status = client.get(f"/v1/submissions/{submission_id}").json()
        again = client.get(stream.path, headers={"Last-Event-ID": stream.last_id})

    assert stream.job_ids == in_completion_order(system.database, submission_id)
    assert as_job in stream.of("job")
    assert [kind for kind, _ in stream.events if kind != "job"] == ["progress", "end"]
    assert stream.of("end") == [status]
    assert headers["content-type"].startswith("text/event-stream")
    assert "no-store" in headers["cache-control"]
    assert headers["x-accel-buffering"] == "no"
    assert (again.status_code, again.content) == (204, b"")  # which tells EventSource not to come back


@pytest.mark.parametrize("seed", range(3))
def test_whoever_is_cut_off_anywhere_gets_every_job_once(
    gateway: GatewayProcess, system: System, client: redis.Redis, seed: int
) -> None:
    """While two workers finish jobs, a client hangs up after random numbers of bytes and comes back."""
    chance = random.Random(seed)
    job_ids = system.queue(600)
    submission_id = submission_of(system.database, job_ids)
    shuffled = chance.sample(job_ids, len(job_ids))

    def work(mine: Sequence[UUID]) -> None:
        for start in range(0, len(mine), 20):
            piece = mine[start : start + 20]
            finish(system, piece, at_a_time=20)
            announce(client, [(submission_id, job_id) for job_id in piece])

    workers = [threading.Thread(target=work, args=(shuffled[half::2],)) for half in range(2)]
    with gateway.client() as http:
        stream = Stream(http, submission_id)
        for worker in workers:
            worker.start()
        cuts = 0
        while not stream.read(chance.randrange(100, 60_000) if cuts < 40 else float("inf")):
            cuts += 1
        for worker in workers:
            worker.join()

    assert cuts > 5
    assert sorted(stream.job_ids) == sorted(job_ids)  # none lost, none twice
    assert stream.of("end")[0]["counts"] == {"succeeded": 600}
    assert [kind for kind, _ in stream.events][-1] == "end"


def test_a_job_committed_late_with_an_earlier_time_is_not_skipped(
    gateway: GatewayProcess, system: System
) -> None:
    """A transaction that began to finish a job first may commit it last."""
    early, late = job_ids = system.queue(2)
    submission_id = submission_of(system.database, job_ids)
    with gateway.client() as client:
        stream = Stream(client, submission_id, wait_s=0)
        finish(system, [late], at_a_time=1)
        assert stream.read()
        assert stream.job_ids == [late]

        finish(system, [early], at_a_time=1)
        with system.database.read() as connection:
            newest = connection.execute(select(func.max(JobRow.finished_at))).scalar_one()
        system.change([early], finished_at=newest - timedelta(minutes=10))
        assert stream.read()

    assert stream.job_ids == [late, early]
    assert stream.last_id == "end"


def test_progress_counts_every_state(gateway: GatewayProcess, system: System, client: redis.Redis) -> None:
    job_ids = system.queue(3)
    submission_id = submission_of(system.database, job_ids)
    with gateway.client() as http:
        stream = Stream(http, submission_id)
        reading = threading.Thread(target=stream.read)
        reading.start()
        claims = system.claim(job_ids)
        channel = finished_channel(submission_id)
        eventually(lambda: client.pubsub_numsub(channel)[0][1] > 0, what="it listens")
        system.commit([success(claims[0]), Failed(claims[1], "image_corrupt", "why"), success(claims[2])])
        announce(client, [(submission_id, job_id) for job_id in job_ids])
        reading.join(150)

    for progress in stream.of("progress"):
        assert isinstance(progress["counts"], dict)
        assert sum(progress["counts"].values()) == 3
    assert stream.of("end")[0]["counts"] == {"succeeded": 2, "failed": 1}
    assert {job["state"] for job in stream.of("job")} == {"succeeded", "failed"}


def test_an_id_that_no_event_had_is_a_problem(gateway: GatewayProcess, system: System) -> None:
    job_ids, fewer = system.queue(40), system.queue(3)
    finish(system, job_ids, at_a_time=40)
    with gateway.client() as client:
        stream = Stream(client, submission_of(system.database, job_ids), wait_s=0)
        stream.read(10_000)
        assert stream.last_id
        other = Stream(client, submission_of(system.database, fewer)).path
        ids: list[str | bytes] = ["nonsense", "0", "AAAA", "é".encode(), "x" * 9_000, stream.last_id[:-4]]
        answers = [client.get(stream.path, headers={"Last-Event-ID": one}) for one in ids]
        answers.append(client.get(other, headers={"Last-Event-ID": stream.last_id}))
        missing = client.get(f"/v1/submissions/{uuid4()}/events")

    for answer in answers:
        assert (answer.status_code, answer.json()["code"]) == (422, "request_invalid"), answer.text
        assert "Last-Event-ID" in answer.json()["detail"]
    assert (missing.status_code, missing.json()["code"]) == (404, "job_not_found")


def test_a_gateway_that_stops_ends_its_streams_and_another_goes_on(
    gateway: GatewayProcess, system: System
) -> None:
    job_ids = system.queue(10)
    finish(system, job_ids[:4], at_a_time=4)
    with gateway.client() as client:
        stream = Stream(client, submission_of(system.database, job_ids))
        ended: list[bool] = []
        reading = threading.Thread(target=lambda: ended.append(stream.read()))
        reading.start()
        eventually(lambda: len(stream.job_ids) == 4, what="what had finished has come")
        gateway.process.terminate()
        reading.join(150)
        assert ended == [True]
        assert gateway.process.wait(150) == 0
        assert sorted(stream.job_ids) == sorted(job_ids[:4])
        assert stream.of("end") == []

        gateway.start()
        finish(system, job_ids[4:], at_a_time=6)
        assert stream.read()

    assert sorted(stream.job_ids) == sorted(job_ids)
    assert len(stream.of("end")) == 1
