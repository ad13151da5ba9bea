"""``/metrics`` of the dashboard: Flower's own, and what only the database and the broker know.

It tells what the overview saw last, and looks by the overview's own way: bounded in time, once for all who
ask. A source that does not answer is told as down, and what it knows is left out.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from flower.views.monitor import Metrics as FlowerMetrics
from prometheus_client import REGISTRY
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from alexq_monitor.dashboard import Dashboard
from alexq_monitor.look import prefixed
from alexq_monitor.overview import Live
from alexq_monitor.sources import or_error
from alexq_schema.db.dashboard import WorkerState
from alexq_schema.errors import AlexqError
from alexq_schema.job import JobState
from alexq_schema.names import Lane


class System(Collector):
    """What the sources told last, for a scrape."""

    def __init__(self, is_alive: Callable[[WorkerState], bool]) -> None:
        self._is_alive = is_alive
        self.live: Live | AlexqError | None = None
        """What the database told, or why it did not; None: it was not asked yet."""
        self.messages: dict[Lane, int] | AlexqError | None = None
        """How many messages the broker had."""
        self.ended: Mapping[JobState, int] = {}
        """How many jobs ended in each state in the last hour."""

    def describe(self) -> Iterable[GaugeMetricFamily]:
        """Name nothing in advance: what there is depends on what answers."""
        return []

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """Yield the metrics; asks nobody."""
        up = GaugeMetricFamily(
            "alexq_source_up", "Whether a service answers the dashboard.", labels=["source"]
        )
        up.add_metric(["database"], float(isinstance(self.live, Live)))
        up.add_metric(["broker"], float(isinstance(self.messages, dict)))
        yield up
        if isinstance(self.messages, dict):
            yield _by_lane("alexq_queue_messages", "Messages in the broker's queue.", self.messages)
        if isinstance(self.live, Live):
            yield from self._told(self.live)

    def _told(self, live: Live) -> Iterable[GaugeMetricFamily]:
        jobs = GaugeMetricFamily("alexq_queue_jobs", "Queued jobs.", labels=["lane", "state"])
        for lane, waiting in live.lanes.items():
            jobs.add_metric([lane.value, "due"], waiting.jobs - waiting.resting)
            jobs.add_metric([lane.value, "resting"], waiting.resting)
        yield jobs
        yield _by_lane(
            "alexq_queue_oldest_seconds",
            "Since the message of the longest waiting job went out.",
            {lane: waiting.oldest_s or 0.0 for lane, waiting in live.lanes.items()},
        )
        yield GaugeMetricFamily("alexq_running_jobs", "Jobs that a worker holds.", value=live.running)
        yield GaugeMetricFamily("alexq_dead_jobs", "Dead jobs: they wait for somebody.", value=live.dead.jobs)
        ended = GaugeMetricFamily("alexq_ended_jobs", "Jobs that ended in the last hour.", labels=["state"])
        for state, number in self.ended.items():
            ended.add_metric([state.value], number)
        yield ended
        workers = GaugeMetricFamily("alexq_workers", "Worker processes.", labels=["state"])
        present = [worker for worker in live.workers if not worker.stopped and worker.unhealthy is None]
        alive = sum(map(self._is_alive, present))
        workers.add_metric(["alive"], alive)
        workers.add_metric(["silent"], len(present) - alive)
        yield workers
        yield GaugeMetricFamily(
            "alexq_wanted_workers", "Workers that there should be.", value=live.wanted_workers
        )


def _by_lane(name: str, documentation: str, values: Mapping[Lane, float]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, documentation, labels=["lane"])
    for lane, value in values.items():
        family.add_metric([lane.value], value)
    return family


class MetricsPage(FlowerMetrics):  # type: ignore[misc] # Flower has no types
    """``GET /metrics``."""

    def initialize(self, dashboard: Dashboard, system: System) -> None:
        """Tell of ``system`` too."""
        self._overview, self._system = dashboard.overview, system

    async def get(self) -> None:
        """Answer with everything in the default registry, its sources fresh."""
        self._system.live, self._system.messages = await asyncio.gather(
            or_error(self._overview.live()), or_error(self._overview.messages())
        )
        if isinstance(self._system.live, Live):
            self._system.ended = self._overview.ended_lately(self._system.live)
        await super().get()


def handlers(dashboard: Dashboard) -> list[Any]:
    """Return the rule to add to Flower's; from now on the process tells of the system, too."""
    system = System(dashboard.overview.is_alive)
    REGISTRY.register(system)
    given = {"dashboard": dashboard, "system": system}
    return [(prefixed(dashboard.url_prefix, "/metrics"), MetricsPage, given)]
