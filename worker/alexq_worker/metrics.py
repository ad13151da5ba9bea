"""The worker's own ``/metrics``: what its pipeline, sweeper and device report, in Prometheus's terms.

Fed once a commit, from :class:`~alexq_worker.pipeline.commit.CommitReport`; what changes by itself is asked
for at each scrape. No label names a job, a submission or a tenant, and each has few values.
``docs/howto/metrics.md`` describes every metric.
"""

from __future__ import annotations

from collections import Counter as Collected
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from importlib.metadata import version
from typing import Any, Final, Protocol
from uuid import UUID

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    start_http_server,
)
from prometheus_client.metrics_core import GaugeMetricFamily
from prometheus_client.registry import Collector

from alexq_schema.errors import AlexqError, SettingsError
from alexq_schema.job import TERMINAL_STATES, JobState, ModelRef
from alexq_schema.names import Lane
from alexq_schema.work import Crashed, Errored, Failed, Late, Outcome, Reused, Succeeded
from alexq_worker.bulk_histogram import BulkHistogram
from alexq_worker.pipeline.commit import CommitReport

STAGE_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""From a decode on a fast core to a stage that hangs."""
LIFE_S: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0, 7200.0)
"""From an idle system to a backlog of hours."""
IMAGES: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
SHARES: Final = (0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1.0)

OTHER: Final = "other"
"""The label of an error code that is none of ours."""

_OUTCOMES: Final[dict[type[Outcome], str]] = {
    Succeeded: "succeeded",
    Reused: "reused",
    Failed: "failed",
    Errored: "errored",
    Crashed: "crashed",
    Late: "late",
}
_OF: Final[dict[str, Any]] = {"namespace": "alexq", "subsystem": "worker"}


def _codes(kind: type[AlexqError] = AlexqError) -> set[str]:
    return {kind.code}.union(*map(_codes, kind.__subclasses__()))


class Serving(Protocol):
    """The resident model, as far as it is told about."""

    model_ref: ModelRef
    device_name: str
    batch_limit: int

    def device_memory(self) -> Mapping[str, int]:
        """Return bytes of the device's memory by kind; empty where it is the host's."""


class Flowing(Protocol):
    """The pipeline, as far as it is told about."""

    def in_flight(self, lane: Lane) -> int:
        """Return how many jobs of this lane are in flight."""

    def stalled(self) -> tuple[float, str]:
        """Return what has not got on for longest: for how many seconds, and what, in words."""


def _memory_of(serving: Callable[[], Serving], kind: str) -> int:
    return serving().device_memory()[kind]


class _Info(Collector):
    """What this worker is, as it is when somebody asks."""

    def __init__(self, worker_id: UUID, serving: Callable[[], Serving]) -> None:
        self._worker_id = worker_id
        self._serving = serving

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield one gauge, of 1."""
        engine = self._serving()
        model = engine.model_ref
        info = {
            "worker_id": str(self._worker_id),
            "version": version("alexq"),
            "model": model.name,
            "model_version": model.version,
            "precision": model.precision,
            "trained": str(model.trained).lower(),
            "device": engine.device_name,
        }
        text = "1: which worker this is, and what it serves."
        family = GaugeMetricFamily("alexq_worker_info", text, labels=tuple(info))
        family.add_metric(tuple(info.values()), 1)
        yield family


class Metrics:
    """The metrics of one worker process, in a registry of its own. Any thread may call it."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        of = {**_OF, "registry": self.registry}
        self._jobs = Counter("jobs", "Jobs that this worker ended, by state.", ("state",), **of)
        self._attempts = Counter("attempts", "Attempts that are over, by outcome.", ("outcome",), **of)
        self._errors = Counter(
            "errors", "Attempts without a result, by the code of the error.", ("code",), **of
        )
        self._fenced = Counter(
            "fenced_commits", "Outcomes refused: the job was no longer this worker's.", **of
        )
        self._swept = Counter("swept_jobs", "Jobs that the sweeper acted on, by action.", ("action",), **of)
        self._deleted_images = Counter("deleted_images", "Images deleted that no job needs.", **of)
        self._forward = Histogram("forward_seconds", "A batch on the device.", buckets=STAGE_S, **of)
        self._commit = Histogram(
            "commit_seconds", "A transaction with everything that was finished.", buckets=STAGE_S, **of
        )
        self._images = Histogram("batch_images", "Images of a batch.", buckets=IMAGES, **of)
        self._fill = Histogram(
            "batch_fill_ratio", "Images of a batch, of those it might have had.", buckets=SHARES, **of
        )
        self._shared = Counter(
            "shared_jobs", "Jobs answered by another's forward: of the same image, in flight with it.", **of
        )
        lanes = [lane.value for lane in Lane]
        self._waiting = self._bulk(
            "waiting_seconds", "From acceptance to a job's first claim.", LIFE_S, "lane", lanes
        )
        self._life = self._bulk(
            "job_seconds", "From acceptance to the commit that ended a job.", LIFE_S, "lane", lanes
        )
        self._decode = self._bulk("decode_seconds", "Loading, decoding and resizing an image.", STAGE_S)
        self._ready = self._bulk("batch_wait_seconds", "An image's wait, decoded, for the device.", STAGE_S)
        self._switches = Counter(
            "model_switches", "Versions that took over, or were refused, while it worked.", ("outcome",), **of
        )
        self._known_codes = _codes()
        for outcome in ("switched", "refused"):
            self._switches.labels(outcome)
        for state in TERMINAL_STATES:
            if state is not JobState.CANCELLED:  # no worker does that
                self._jobs.labels(state.value)
        for outcome in _OUTCOMES.values():
            self._attempts.labels(outcome)
        for action in ("reclaimed", "expired", "republished", "deleted"):
            self._swept.labels(action)

    def _bulk(
        self,
        name: str,
        documentation: str,
        bounds: tuple[float, ...],
        label: str = "",
        values: list[str] | None = None,
    ) -> BulkHistogram:
        made = BulkHistogram(f"alexq_worker_{name}", documentation, bounds, label, values or [""])
        self.registry.register(made)
        return made

    def listen(self, address: str, port: int) -> None:
        """Answer scrapes on a thread of its own until the process ends; with port 0, do not.

        Raises:
            SettingsError: the port is taken, or this machine does not have the address.
        """
        if not port:
            return
        try:
            start_http_server(port, address, self.registry)
        except OSError as error:
            raise SettingsError(
                f"cannot serve metrics on {address}:{port}: {error.strerror or error}; "
                "set ALEXQ_METRICS_ADDRESS and ALEXQ_METRICS_PORT, each worker of a host its own"
            ) from error

    def describe(self, worker_id: UUID, serving: Callable[[], Serving], pipeline: Flowing) -> None:
        """Tell at each scrape what this worker serves by then, and how it gets on."""
        of = {**_OF, "registry": self.registry}
        self.registry.register(_Info(worker_id, serving))
        self._asked("batch_limit_images", "Images of a batch, at most.", lambda: serving().batch_limit)
        self._asked(
            "progress_age_seconds",
            "Time since what is in hand got on; 0 where nothing is.",
            lambda: pipeline.stalled()[0],
        )
        in_flight = Gauge("jobs_in_flight", "Jobs handed in and not settled.", ("lane",), **of)
        for lane in Lane:
            in_flight.labels(lane.value).set_function(partial(pipeline.in_flight, lane))
        if kinds := serving().device_memory():
            memory = Gauge("device_memory_bytes", "The device's memory, by kind.", ("kind",), **of)
            for kind in kinds:
                memory.labels(kind).set_function(partial(_memory_of, serving, kind))

    def _asked(self, name: str, documentation: str, ask: Callable[[], float]) -> None:
        Gauge(name, documentation, **_OF, registry=self.registry).set_function(ask)

    def committed(self, report: CommitReport) -> None:
        """Note one transaction: what it costs grows with the batch by a search in a few numbers an image."""
        for batch in report.batches:
            self._images.observe(batch.size)
            if batch.shared:
                self._shared.inc(batch.shared)
            self._fill.observe(batch.size / batch.limit)
            self._forward.observe(batch.forward_s)
            self._decode.observe_all(batch.decode_s)
            self._ready.observe_all(batch.ready_s)
        self._commit.observe(report.commit_s)
        for lane in Lane:
            jobs = [job for job in report.jobs if job.lane is lane]
            if jobs:
                claims = [job.outcome.claim for job in jobs]
                firsts = [claim.waited_s for claim in claims if claim.attempt == 1]
                self._waiting.observe_all(firsts, lane.value)
                self._life.observe_all([job.total_s for job in jobs], lane.value)
        for kind, count in Collected(type(job.outcome) for job in report.jobs).items():
            self._attempts.labels(_OUTCOMES[kind]).inc(count)
        for code, count in report.failed.items():
            self._errors.labels(code if code in self._known_codes else OTHER).inc(count)
        for state, count in report.states.items():
            if state.is_terminal:
                self._jobs.labels(state.value).inc(count)
        self._fenced.inc(report.fenced)

    def switched(self) -> None:
        """Note that another model version took over."""
        self._switches.labels("switched").inc()

    def refused(self) -> None:
        """Note that a model version which was activated cannot be used."""
        self._switches.labels("refused").inc()

    def reclaimed(self, jobs: int, dead: int) -> None:
        """Note jobs taken back from silent workers, and how many of them are dead of it."""
        self._swept.labels("reclaimed").inc(jobs)
        self._jobs.labels(JobState.DEAD.value).inc(dead)

    def expired(self, jobs: int) -> None:
        """Note queued jobs that the sweeper ended at their deadline."""
        self._swept.labels("expired").inc(jobs)
        self._jobs.labels(JobState.EXPIRED.value).inc(jobs)

    def republished(self, jobs: int) -> None:
        """Note jobs whose message was missing."""
        self._swept.labels("republished").inc(jobs)

    def deleted(self, *, jobs: int = 0, images: int = 0) -> None:
        """Note what retention let go."""
        self._swept.labels("deleted").inc(jobs)
        self._deleted_images.inc(images)
