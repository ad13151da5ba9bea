"""Whether anything is recorded, and what it costs where nothing is."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from types import FrameType
from uuid import uuid4

import pytest

from alexq.stack.environment import environment
from alexq_schema import tracing
from alexq_schema.ids import new_id
from alexq_schema.names import Lane
from alexq_schema.settings import Settings
from alexq_schema.work import Claim, PredictionWriter, Succeeded
from alexq_worker.pipeline.commit import BatchReport, CommitReport, JobReport
from alexq_worker.pipeline.flow import Item
from alexq_worker.pipeline.ticket import Ticket
from alexq_worker.traces import Traces
from tests.helpers.traces import Recording, recording

SAMPLED = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
ENDPOINT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}

BEGIN = """
import logging, sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.startswith({blocked!r}):
            raise ImportError(name)
sys.meta_path.insert(0, Blocked())
from alexq_schema import tracing
tracing.begin("worker")
if tracing.is_on():
    from opentelemetry import trace
    provider = trace.get_tracer_provider()
    print(provider.resource.attributes["service.name"])
    provider.shutdown()
with tracing.span("batch"):
    print(tracing.traceparent(), tracing.trace_id(), tracing.headers())
"""
NOTHING = "None None {}"


def begun(blocked: str = "nothing", **variables: str) -> tuple[list[str], str]:
    """Return what a process says that begins with these variables, and its log."""
    program = BEGIN.format(blocked=blocked)
    env = {**environment(Settings.load()), **variables}
    done = subprocess.run(
        [sys.executable, "-c", program], env=env, capture_output=True, text=True, check=False, timeout=200
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines(), done.stderr


@pytest.mark.parametrize("blocked", ["opentelemetry", "opentelemetry.sdk", "opentelemetry.exporter"])
def test_without_the_extra_a_process_says_what_to_install_and_goes_on(blocked: str) -> None:
    said, log = begun(blocked, **ENDPOINT)

    assert said == [NOTHING]
    assert 'pip install "alexq[otel]"' in log
    assert len(log.splitlines()) == 1


@pytest.mark.parametrize(
    "variables",
    [
        {},
        ENDPOINT | {"OTEL_SDK_DISABLED": "true"},
        ENDPOINT | {"OTEL_TRACES_EXPORTER": "none"},
    ],
)
def test_nothing_is_recorded_unless_it_is_asked_for(variables: dict[str, str]) -> None:
    assert begun(**variables) == ([NOTHING], "")


@pytest.mark.parametrize(
    ("variables", "name"),
    [
        ({}, "alexq-worker"),
        ({"OTEL_SERVICE_NAME": "labels"}, "labels"),
        ({"OTEL_RESOURCE_ATTRIBUTES": "service.name=labels,service.namespace=shop"}, "labels"),
    ],
)
def test_the_operator_may_name_the_service(variables: dict[str, str], name: str) -> None:
    [said, _], _ = begun(**ENDPOINT, OTEL_TRACES_SAMPLER="always_off", **variables)

    assert said == name


def test_a_sampler_that_says_no_hands_no_trace_on() -> None:
    [_, said], _ = begun(**ENDPOINT, OTEL_TRACES_SAMPLER="always_off")

    assert said.startswith("None ")


@pytest.fixture
def spans() -> Iterator[Recording]:
    with recording() as made:
        yield made


def report(jobs: int, traceparent: str | None) -> CommitReport:
    claims = [
        Claim(uuid4(), 1, uuid4(), "task", "a.jpg", "0" * 64, traceparent=traceparent) for _ in range(jobs)
    ]
    predictions = PredictionWriter(["tabby"]).write([0], [0.5])
    items = [Item(claim, Ticket([claim.job_id], Lane.BULK), None, 1.0, 2.0, 0.5) for claim in claims]
    batch = BatchReport(1, jobs, 256, [0.5] * jobs, [0.1] * jobs, 0.5, "alexnet/1", 2.5, items)
    done = [JobReport(Succeeded(claim, predictions, 1, 0.5, 0.5, jobs), Lane.BULK, 3.0) for claim in claims]
    return CommitReport((batch,), done, {}, {}, 0, 0.5, 0, 4.0)


def calls(function: Callable[[], object]) -> int:
    """Return how many functions of the module that knows OpenTelemetry are called."""
    count = 0

    def note(frame: FrameType, event: str, _: object) -> None:
        nonlocal count
        count += event == "call" and frame.f_code.co_filename == tracing.__file__

    sys.setprofile(note)
    try:
        function()
    finally:
        sys.setprofile(None)
    return count


def traces() -> Traces:
    return Traces(new_id(), "cpu", clock=lambda: 0.0)


def test_who_does_not_trace_pays_nothing_for_a_job_or_a_batch() -> None:
    worker = traces()

    assert calls(lambda: worker.record(report(1, SAMPLED))) == 2  # whether it is on
    assert calls(lambda: worker.record(report(64, SAMPLED))) == 2


def test_a_job_that_is_not_sampled_costs_nothing(spans: Recording) -> None:
    worker = traces()
    worker.record(report(1, None))

    one, many = (calls(lambda: worker.record(report(jobs, None))) for jobs in (1, 64))  # noqa: B023

    assert one == many
    assert {span.name for span in spans.spans()} == {"batch", "decode", "forward", "commit"}


def test_a_batch_links_as_many_jobs_as_a_span_may(spans: Recording) -> None:
    traces().record(report(200, SAMPLED))

    [batch] = [span for span in spans.spans() if span.name == "batch"]
    jobs = [span for span in spans.spans() if span.name == "classify job"]
    assert len(batch.links) == tracing.MAX_LINKS
    assert {job.links for job in jobs} == {(batch.ids,)}
    assert len(jobs) == 200


def test_what_is_over_is_recorded_at_the_time_it_happened() -> None:
    with recording() as made:
        began = time.time()
        span = tracing.record("forward", began - 5, began - 3)

    assert span is not None
    assert span.start_time == int((began - 5) * 1e9)  # type: ignore[attr-defined]
    assert span.end_time == int((began - 3) * 1e9)  # type: ignore[attr-defined]
    assert [one.name for one in made.spans()] == ["forward"]


def test_a_span_is_current_while_it_lasts(spans: Recording) -> None:
    with tracing.span("outer", parent=SAMPLED):
        assert tracing.trace_id() == SAMPLED[3:35]
        assert tracing.headers()["traceparent"] == tracing.traceparent()
    assert tracing.trace_id() is None


def test_what_is_recorded_without_a_parent_begins_a_trace(spans: Recording) -> None:
    with tracing.span("outer"):
        tracing.record("batch", 1.0, 2.0)

    batch, outer = spans.spans()
    assert batch.parent_id is None
    assert batch.trace_id != outer.trace_id


@pytest.mark.parametrize("traceparent", ["", "nonsense", SAMPLED[:-2] + "00", "ff" + SAMPLED[2:]])
def test_what_a_row_holds_beside_sampled_traces_links_nothing(spans: Recording, traceparent: str) -> None:
    tracing.record("batch", 1.0, 2.0, links=[traceparent])

    assert [span.links for span in spans.spans()] == [()]
