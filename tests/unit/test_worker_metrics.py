"""What a worker tells Prometheus of each commit, and what that costs."""

from __future__ import annotations

import socket
import urllib.request
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import pytest
from prometheus_client import Counter, Gauge, Histogram
from prometheus_client.parser import text_string_to_metric_families
from torch import cuda, device

from alexq_schema.errors import ImageCorruptError, SettingsError
from alexq_schema.job import JobState, ModelRef
from alexq_schema.names import Lane
from alexq_schema.work import Claim, Crashed, Errored, Failed, Late, Outcome, PredictionWriter, Succeeded
from alexq_worker.bulk_histogram import BulkHistogram
from alexq_worker.inference.devices import memory
from alexq_worker.metrics import Metrics
from alexq_worker.pipeline.commit import BatchReport, CommitReport, JobReport
from tests.helpers.metrics import documented, exposed
from tests.helpers.ports import free_port

WRITER = PredictionWriter(["tabby"])


def claim(attempt: int = 1, waited_s: float = 3.0) -> Claim:
    return Claim(uuid4(), attempt, None, "task", "a.jpg", "0" * 64, waited_s=waited_s)


def succeeded(one: Claim | None = None) -> Succeeded:
    return Succeeded(one or claim(), WRITER.write([0], [0.5]), 1, 0.01, 0.02, 64)


def report(
    outcomes: list[Outcome],
    *,
    lane: Lane = Lane.BULK,
    states: dict[JobState, int] | None = None,
    failed: dict[str, int] | None = None,
    fenced: int = 0,
) -> CommitReport:
    size = max(1, len(outcomes))
    batch = BatchReport(1, size, 64, [0.004] * size, [0.02] * size, 0.3, "alexnet/v1", 0.0, [])
    jobs = [JobReport(outcome, lane, 4.0) for outcome in outcomes]
    return CommitReport((batch,), jobs, states or {}, failed or {}, fenced, 0.003, 0, 0.0)


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(f"alexq_worker_{name}", labels)


def test_every_outcome_and_state_is_counted() -> None:
    metrics = Metrics()
    outcomes = [
        succeeded(),
        succeeded(),
        Failed(claim(), ImageCorruptError.code, ""),
        Errored(claim(), "engine_failed", ""),
        Crashed(claim(), ""),
        Late(claim()),
    ]
    states = {JobState.SUCCEEDED: 2, JobState.FAILED: 1, JobState.QUEUED: 1, JobState.DEAD: 1}
    failed = {"image_corrupt": 1, "engine_failed": 1, "what_a_child_made_up": 2}

    metrics.committed(report(outcomes, states=states, failed=failed, fenced=1))

    assert [
        value(metrics, "jobs_total", state=state) for state in ("succeeded", "failed", "dead", "expired")
    ] == [
        2,
        1,
        1,
        0,
    ]
    assert value(metrics, "jobs_total", state="queued") is None  # it has not ended
    assert value(metrics, "jobs_total", state="cancelled") is None
    counted = {
        kind: value(metrics, "attempts_total", outcome=kind) for kind in ("succeeded", "late", "crashed")
    }
    assert counted == {"succeeded": 2, "late": 1, "crashed": 1}
    assert value(metrics, "errors_total", code="image_corrupt") == 1
    assert value(metrics, "errors_total", code="what_a_child_made_up") is None
    assert value(metrics, "errors_total", code="other") == 2
    assert value(metrics, "fenced_commits_total") == 1


def test_each_image_has_its_place_in_the_histograms() -> None:
    metrics = Metrics()

    metrics.committed(report([succeeded() for _ in range(16)]))

    assert value(metrics, "decode_seconds_count") == 16
    assert value(metrics, "decode_seconds_sum") == pytest.approx(0.064)
    assert value(metrics, "decode_seconds_bucket", le="0.0025") == 0
    assert value(metrics, "decode_seconds_bucket", le="0.005") == 16
    assert value(metrics, "batch_wait_seconds_bucket", le="0.025") == 16
    assert value(metrics, "forward_seconds_count") == value(metrics, "commit_seconds_count") == 1
    assert value(metrics, "batch_images_sum") == 16
    assert value(metrics, "batch_fill_ratio_bucket", le="0.25") == 1


def test_waiting_is_of_first_attempts_and_by_lane() -> None:
    metrics = Metrics()
    again = succeeded(claim(attempt=2, waited_s=900.0))

    metrics.committed(report([succeeded(), again]))
    metrics.committed(report([succeeded(claim(waited_s=0.2))], lane=Lane.INTERACTIVE))

    assert value(metrics, "waiting_seconds_sum", lane="bulk") == 3.0
    assert value(metrics, "waiting_seconds_bucket", lane="interactive", le="0.25") == 1
    assert value(metrics, "job_seconds_count", lane="bulk") == 2


def test_a_batch_costs_the_same_number_of_operations_however_many_images(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[str] = []

    def counted(kind: Any, name: str) -> None:
        real = getattr(kind, name)

        def call(*args: Any, **kw: Any) -> Any:
            calls.append(f"{kind.__name__}.{name}")
            return real(*args, **kw)

        monkeypatch.setattr(kind, name, call)

    for kind, name in (
        (Counter, "inc"),
        (Histogram, "observe"),
        (BulkHistogram, "observe_all"),
        (Gauge, "set"),
    ):
        counted(kind, name)
    metrics = Metrics()

    def operations(images: int) -> int:
        calls.clear()
        states = {JobState.SUCCEEDED: images}
        metrics.committed(report([succeeded() for _ in range(images)], states=states))
        return len(calls)

    assert operations(1) == operations(64) == 11


def test_what_the_sweeper_does_is_counted_by_action() -> None:
    metrics = Metrics()

    metrics.reclaimed(3, dead=1)
    metrics.expired(2)
    metrics.republished(5)
    metrics.deleted(jobs=7)
    metrics.deleted(images=4)

    swept = {"reclaimed": 3, "expired": 2, "republished": 5, "deleted": 7}
    assert {action: value(metrics, "swept_jobs_total", action=action) for action in swept} == swept
    assert value(metrics, "jobs_total", state="dead") == 1
    assert value(metrics, "jobs_total", state="expired") == 2
    assert value(metrics, "deleted_images_total") == 4


class Model:
    model_ref = ModelRef(name="alexnet", version="v1", precision="bf16", trained=True)
    device_name = "cpu"
    batch_limit = 32

    def device_memory(self) -> dict[str, int]:
        return {"free": 7}


class Flow:
    def in_flight(self, lane: Lane) -> int:
        return 5 if lane is Lane.BULK else 1

    def stalled(self) -> tuple[float, str]:
        return 2.5, "the device"


def test_what_changes_by_itself_is_asked_at_each_scrape() -> None:
    metrics, model = Metrics(), Model()
    metrics.describe(UUID(int=1), lambda: model, Flow())
    model.batch_limit = 16

    assert value(metrics, "batch_limit_images") == 16
    assert value(metrics, "jobs_in_flight", lane="bulk") == 5
    assert value(metrics, "progress_age_seconds") == 2.5
    assert value(metrics, "device_memory_bytes", kind="free") == 7
    [info] = [family for family in metrics.registry.collect() if family.name == "alexq_worker_info"]
    assert info.samples[0].labels["precision"] == "bf16"
    assert info.samples[0].labels["worker_id"] == str(UUID(int=1))
    model.model_ref = ModelRef(name="alexnet", version="v2", precision="bf16", trained=True)
    [info] = [family for family in metrics.registry.collect() if family.name == "alexq_worker_info"]
    assert [sample.labels["model_version"] for sample in info.samples] == ["v2"]


def test_only_a_device_with_memory_of_its_own_tells_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert memory(device("cpu")) == {}
    monkeypatch.setattr(cuda, "mem_get_info", lambda _: (10, 80))
    monkeypatch.setattr(cuda, "memory_reserved", lambda _: 30)
    monkeypatch.setattr(cuda, "memory_allocated", lambda _: 20)
    assert memory(device("cuda", 0)) == {"total": 80, "free": 10, "reserved": 30, "allocated": 20}


def test_the_document_describes_each_metric_and_no_other() -> None:
    metrics = Metrics()
    metrics.describe(UUID(int=1), Model, Flow())
    metrics.committed(report([Late(claim())], failed={"deadline_passed": 1}))

    assert exposed(metrics.registry.collect()) == documented("alexq_worker_")


@pytest.fixture
def listening() -> SimpleNamespace:
    metrics, port = Metrics(), free_port()
    metrics.listen("127.0.0.1", port)
    return SimpleNamespace(metrics=metrics, port=port)


def test_a_scrape_is_answered(listening: SimpleNamespace) -> None:
    with urllib.request.urlopen(f"http://127.0.0.1:{listening.port}/metrics", timeout=120) as answer:
        names = {family.name for family in text_string_to_metric_families(answer.read().decode())}
    assert {"alexq_worker_jobs", "alexq_worker_decode_seconds", "process_resident_memory_bytes"} <= names


def test_a_taken_port_is_said_with_what_to_set(listening: SimpleNamespace) -> None:
    with pytest.raises(SettingsError, match=rf"127\.0\.0\.1:{listening.port}.*ALEXQ_METRICS_PORT"):
        Metrics().listen("127.0.0.1", listening.port)
    with pytest.raises(SettingsError, match=r"192\.0\.2\.1"):
        Metrics().listen("192.0.2.1", free_port())


def test_nothing_listens_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a socket was made")

    monkeypatch.setattr(socket, "socket", refuse)
    Metrics().listen("127.0.0.1", 0)
