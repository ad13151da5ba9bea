"""One trace from the client through gateway, queue and batch to commit and webhook."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import httpx2
import pytest
import redis
from sqlalchemy import select

from alexq import AsyncClient, Client, Job, JobState, Producer
from alexq_producer.gateway import jobs as job_routes
from alexq_producer.gateway.app import create_app
from alexq_producer.gateway.core import Core
from alexq_producer.gateway.direct import Direct
from alexq_producer.gateway.traced import Traced
from alexq_producer.webhooks.deliverer import Deliverer
from alexq_producer.webhooks.pace import Pace
from alexq_schema.db import deliveries, delivery_waking
from alexq_schema.db import workers as worker_table
from alexq_schema.db.session import Database
from alexq_schema.db.tables import Job as JobRow
from alexq_schema.errors import ImageCorruptError
from alexq_schema.ids import new_id
from alexq_schema.images import open_image_store
from alexq_schema.messages import ClassifyJobs
from alexq_schema.names import Lane, queue_name
from alexq_schema.outward import Outward
from alexq_schema.settings import Settings
from alexq_worker.lifecycle import Notifier
from alexq_worker.metrics import Metrics
from alexq_worker.pipeline.pipeline import Pipeline
from alexq_worker.pipeline.residents import Resident, Residents
from alexq_worker.reporting import Reporting
from alexq_worker.table import SqlJobTable
from alexq_worker.traces import Traces
from tests.helpers.eventually import eventually
from tests.helpers.gateway import JPEG, running_gateway
from tests.helpers.photos import encode, photo_crops
from tests.helpers.processes import WorkerProcess
from tests.helpers.system import LIMITS, MODEL
from tests.helpers.traces import Collector, Recording, Told, recording
from tests.helpers.webhooks import Receiver, delivering, register
from tests.unit.pipeline.test_pipeline import Child, GreyEngine

PHOTOGRAPHS = [encode(crop) for crop in photo_crops(3, (64, 48))]
SAMPLED = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
UNSAMPLED = SAMPLED[:-2] + "00"


class OneGrey:
    """Decodes what is a JPEG to a grey picture."""

    def decode(self, data: bytes) -> Any:
        if b"broken" in data:
            raise ImageCorruptError("broken")
        return self

    def write_to(self, out: Any) -> None:
        out[...] = 7


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Settings of a system whose receivers are on loopback."""
    return settings.model_copy(update={"webhook_private": True})


@pytest.fixture
def spans() -> Iterator[Recording]:
    with recording() as made:
        yield made


class InOneProcess:
    """Gateway, worker and webhook worker in this process, on a real broker and a real database."""

    def __init__(self, settings: Settings, database: Database, client: redis.Redis) -> None:
        self.settings = settings
        self._database = database
        self._redis = client

    def submit(self, images: Sequence[bytes], webhook_id: UUID | None = None, **headers: str) -> list[UUID]:
        """Hand in images over HTTP with the SDK; with ``headers``, one with a client of another kind."""

        async def run() -> list[UUID]:
            core = Core(self.settings)
            app = create_app(core)
            served = Traced(Direct(app, job_routes.router))
            transport = httpx2.ASGITransport(served, client=("127.0.0.1", 1))
            async with core.running():
                if headers:
                    async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as http:
                        answer = await http.post("/v1/jobs", content=images[0], headers=JPEG | headers)
                        assert answer.status_code == 202, answer.text
                        return [UUID(answer.json()["job_id"])]
                async with AsyncClient("http://localhost", transport=transport) as client:
                    return list((await client.submit(images, webhook=webhook_id)).job_ids)

        return asyncio.run(run())

    def work(self, lane: Lane = Lane.BULK) -> None:
        """Do what waits in a queue, as a worker does."""
        worker_id = new_id()
        with self._database.begin() as connection:
            model_id = worker_table.register_model(connection, MODEL, "0" * 64)
            worker_table.register(connection, worker_id, host="h", pid=1, device="cpu", model_id=model_id)
        grey = Resident(
            "alexnet/v1",
            model_id,
            decoder=OneGrey(),
            engine=GreyEngine(),
            labels=GreyEngine.labels,
            max_batch=8,
        )
        traces = Traces(worker_id, "cpu")
        no_trial: Any = SimpleNamespace(committed=lambda _report: None)
        broken: list[Exception] = []
        pipeline = Pipeline(
            table=SqlJobTable(
                self._database,
                worker_id=worker_id,
                limits=LIMITS,
                retry_pause_s=1.0,
                random=Random(0),
            ),
            images=open_image_store(self.settings.images_url),
            residents=Residents(grey, lambda _ref: grey, limit=1),
            isolation=Child(),
            max_batch=8,
            decode_threads=1,
            fetch_threads=1,
            on_committed=Reporting(Notifier(self._redis), Metrics(), traces, no_trial).committed,
            on_room=lambda: None,
            on_fatal=broken.append,
        )
        pipeline.start()
        eventually(lambda: self._redis.llen(queue_name(lane)), what="a message goes out")
        while (message := self._redis.rpop(queue_name(lane))) is not None:
            body = json.loads(base64.b64decode(json.loads(message)["body"]))
            pipeline.submit(ClassifyJobs.parse(body[1]).job_ids, lane).result(60)
        assert pipeline.stop(60)
        assert broken == []

    def deliver(self) -> None:
        """Make the attempts that are due, as a webhook worker does."""
        outward = Outward(hosts=None, timeout_s=5.0, allow_private=True)
        with self._database.begin() as connection:
            delivery_waking.wake(connection, delivery_waking.to_wake(connection, None)[0])
            due, _ = deliveries.take_due(connection, limit=10, lease_s=60.0)
        deliverer = Deliverer(self._database, outward, Pace(), Random(0))
        for one in due:
            deliverer.attempt(one)
        outward.close()

    def rows(self) -> list[str | None]:
        """Return what the jobs' rows hold of traces."""
        with self._database.read() as connection:
            return list(connection.execute(select(JobRow.traceparent)).scalars())


@pytest.fixture
def here(settings: Settings, database: Database, client: redis.Redis) -> InOneProcess:
    return InOneProcess(settings, database, client)


def path_to(spans: Sequence[Told], last: Told) -> list[str]:
    """Return the names from the root of a trace to one of its spans."""
    by_id = {span.span_id: span for span in spans}
    names = [last.name]
    while last.parent_id is not None:
        last = by_id[last.parent_id]
        names.insert(0, last.name)
    return names


def test_one_trace_from_the_client_to_the_webhook(
    here: InOneProcess, spans: Recording, database: Database
) -> None:
    with Receiver() as receiver:
        webhook_id, _ = register(database, receiver.url())
        job_ids = here.submit([*PHOTOGRAPHS, PHOTOGRAPHS[0] + b"broken"], webhook_id)
        here.work()
        here.deliver()
        [told] = receiver.wait_for(1)

    found = spans.spans()
    way = ["submit", "POST /v1/submissions", "publish alexq.classify.bulk"]
    [publish] = [span for span in found if span.name == way[-1]]
    jobs = {span.attributes["alexq.job.id"]: span for span in found if span.name == "classify job"}
    [delivery] = [span for span in found if span.name == "deliver webhook"]
    assert set(jobs) == set(map(str, job_ids))
    assert {tuple(path_to(found, job)) for job in jobs.values()} == {(*way, "classify job")}
    assert path_to(found, delivery) == [*way, "deliver webhook"]
    assert told.headers["traceparent"] == f"00-{publish.trace_id}-{delivery.span_id}-01"
    assert here.rows() == [f"00-{publish.trace_id}-{publish.span_id}-01"] * 4

    batches = [span for span in found if span.name == "batch"]
    assert sum(span.attributes["messaging.batch.message_count"] for span in batches) == 3
    assert {span.trace_id for span in batches}.isdisjoint({publish.trace_id})
    assert {link for span in batches for link in span.links} == {publish.ids}
    good = [jobs[str(job_id)] for job_id in job_ids[:3]]
    assert {link for job in good for link in job.links} == {span.ids for span in batches}
    assert not any(job.is_error for job in good)
    bad = jobs[str(job_ids[3])]
    assert (bad.is_error, bad.attributes["error.type"], bad.links) == (True, "image_corrupt", ())
    stages = {tuple(path_to(found, span)) for span in found if span.trace_id == batches[0].trace_id}
    assert stages == {("batch",), ("batch", "decode"), ("batch", "forward"), ("batch", "commit")}


def test_a_producer_begins_a_trace_too(here: InOneProcess, spans: Recording, producer: Producer) -> None:
    submission = producer.submit(PHOTOGRAPHS)
    here.work()
    submission.wait(60)

    found = spans.spans()
    jobs = [span for span in found if span.name == "classify job"]
    assert [path_to(found, job) for job in jobs] == [
        ["submit", "publish alexq.classify.bulk", "classify job"]
    ] * 3
    assert [span.name for span in found].count("wait") == 1


def test_a_trace_that_a_foreign_client_began_goes_on(here: InOneProcess, spans: Recording) -> None:
    here.submit(PHOTOGRAPHS, traceparent=SAMPLED)
    here.work(Lane.INTERACTIVE)

    [job] = [span for span in spans.spans() if span.name == "classify job"]
    [request] = [span for span in spans.spans() if span.name == "POST /v1/jobs"]
    assert (request.trace_id, request.parent_id) == (SAMPLED[3:35], SAMPLED[36:52])
    assert request.attributes["http.response.status_code"] == 202
    assert job.trace_id == SAMPLED[3:35]


def test_a_trace_that_is_not_sampled_leaves_nothing(here: InOneProcess, spans: Recording) -> None:
    here.submit(PHOTOGRAPHS, traceparent=UNSAMPLED)
    here.work(Lane.INTERACTIVE)

    assert here.rows() == [None]
    assert {span.name for span in spans.spans()} == {"batch", "decode", "forward", "commit"}


def test_who_does_not_trace_hands_no_trace_on(here: InOneProcess) -> None:
    here.submit(PHOTOGRAPHS, traceparent=SAMPLED)

    assert here.rows() == [None]


def test_a_receiver_that_fails_shows_in_the_trace(
    here: InOneProcess, spans: Recording, database: Database
) -> None:
    with Receiver(lambda _: (500, {})) as receiver:
        here.submit(PHOTOGRAPHS, register(database, receiver.url())[0])
        here.work()
        here.deliver()

    [delivery] = [span for span in spans.spans() if span.name == "deliver webhook"]
    assert (delivery.is_error, delivery.attributes["error.type"]) == (True, "500")


class TestProcesses:
    """Real processes, which send their spans over OTLP."""

    @pytest.fixture
    def database_url(self, sqlite_url: str) -> str:
        """The statements are the same."""
        return sqlite_url

    def test_they_send_one_trace(
        self,
        settings: Settings,
        database: Database,
        start_worker: Callable[..., WorkerProcess],
        spans: Recording,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        with ExitStack() as stack:
            collector, receiver = stack.enter_context(Collector()), stack.enter_context(Receiver())
            monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
            monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")
            worker = start_worker()
            spoken = settings.model_copy(update={"log_format": "json"})
            gateway = stack.enter_context(running_gateway(spoken, tmp_path / "gateway.log"))
            stack.enter_context(delivering(settings, tmp_path / "webhooks.log"))
            webhook_id, _ = register(database, receiver.url())
            with Client(gateway.url) as client:
                jobs: list[Job] = client.submit(PHOTOGRAPHS, webhook=webhook_id).wait(150)
            assert {job.state for job in jobs} == {JobState.SUCCEEDED}
            receiver.wait_for(1)
            # Each process sends what it has when it has gathered for a while.
            for name in ("POST /v1/submissions", "publish alexq.classify.bulk", "deliver webhook"):
                eventually(lambda name=name: collector.named(name), what=f"{name} has come")
            eventually(lambda: len(collector.named("classify job")) == 3)
            assert worker.terminate() == 0
            eventually(
                lambda: len(collector.named("batch")) == len(worker.lines("batch")), what="all batches"
            )

        submit = next(span for span in spans.spans() if span.name == "submit")
        ours = [span for span in collector.received if span.trace_id == submit.trace_id]
        way = [submit, *ours]
        [delivery] = [span for span in ours if span.name == "deliver webhook"]
        published = ["submit", "POST /v1/submissions", "publish alexq.classify.bulk"]
        assert path_to(way, delivery) == [*published, "deliver webhook"]
        assert {tuple(path_to(way, one)) for one in ours if one.name == "classify job"} == {
            (*published, "classify job")
        }
        assert {(span.service, span.name) for span in ours} == {
            ("alexq-gateway", published[1]),
            ("alexq-gateway", published[2]),
            ("alexq-worker", "classify job"),
            ("alexq-webhooks", "deliver webhook"),
        }
        batches = {span.trace_id: span for span in collector.named("batch")}
        lines = worker.lines("batch")
        assert {line["trace_id"] for line in lines} == set(batches)
        assert all(line["batch_id"] and line["worker_id"] for line in lines)
        told = [json.loads(line) for line in (tmp_path / "gateway.log").read_text().splitlines()]
        [accepted] = [line for line in told if line["event"] == "accepted"]
        assert accepted["trace_id"] == submit.trace_id
        assert {one for line in lines for one in line["submission_ids"]} == {accepted["submission_id"]}
        assert {one for line in lines for one in line["job_ids"]} == {str(job.job_id) for job in jobs}

    def test_a_collector_that_is_away_costs_no_job(
        self,
        producer: Producer,
        start_worker: Callable[..., WorkerProcess],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
        worker = start_worker()

        jobs = producer.submit(PHOTOGRAPHS).wait(150)

        assert {job.state for job in jobs} == {JobState.SUCCEEDED}
        assert worker.terminate() == 0
