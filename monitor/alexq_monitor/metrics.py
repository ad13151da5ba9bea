"""``/metrics`` of the dashboard: Flower's own, and what only the database and the broker know.

It tells what the overview saw last, and looks by the overview's own way: bounded in time, once for all who
ask. A source that does not answer is told as down, and what it knows is left out.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from flower.views.monitor import Metrics as FlowerMetrics
from prometheus_client import REGISTRY
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from alexq_monitor.dashboard import Dashboard
from alexq_monitor.look import prefixed
from alexq_monitor.overview import Live
from alexq_monitor.queues import QueueState, summed, told_apart
from alexq_monitor.sources import or_error
from alexq_schema.db.dashboard import WorkerState
from alexq_schema.errors import AlexqError
from alexq_schema.job import JobState
from alexq_schema.names import Lane, QueueLane


class System(Collector):
    """What the sources told last, for a scrape."""

    def __init__(self, is_alive: Callable[[WorkerState], bool]) -> None:
        self._is_alive = is_alive
        self.live: Live | AlexqError | None = None
        """What the database told, or why it did not; None: it was not asked yet."""
        self.messages: dict[QueueLane, int] | AlexqError | None = None
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
            messages = GaugeMetricFamily(
                "alexq_queue_messages", "Messages in the broker's queue.", labels=["queue", "lane"]
            )
            for lane, number in self.messages.items():
                messages.add_metric([lane.queue, lane.lane.value], number)
            yield messages
        if isinstance(self.live, Live):
            yield from self._told(self.live)

    def _told(self, live: Live) -> Iterable[GaugeMetricFamily]:
        yield from _waiting(live.queues)
        yield _by_queue(
            "alexq_running_jobs",
            "Jobs that a worker holds.",
            live.queues,
            {name: state.held.jobs for name, state in live.queues.items()},
        )
        yield GaugeMetricFamily("alexq_dead_jobs", "Dead jobs: they wait for somebody.", value=live.dead.jobs)
        ended = GaugeMetricFamily("alexq_ended_jobs", "Jobs that ended in the last hour.", labels=["state"])
        for state, number in self.ended.items():
            ended.add_metric([state.value], number)
        yield ended
        workers = GaugeMetricFamily("alexq_workers", "Worker processes.", labels=["queue", "state"])
        present = [worker for worker in live.workers if not worker.stopped and worker.unhealthy is None]
        alive = [worker for worker in present if self._is_alive(worker)]
        for kind, some in (("alive", alive), ("silent", [one for one in present if one not in alive])):
            counted = Counter(worker.queue for worker in some)
            for name, processes in summed(counted, told_apart(live.queues)).items():
                workers.add_metric([name, kind], processes)
        yield workers
        yield _by_queue(
            "alexq_wanted_workers",
            "Workers that there should be.",
            live.queues,
            {name: state.wanted_workers for name, state in live.queues.items()},
        )


def _waiting(queues: Mapping[str, QueueState]) -> Iterable[GaugeMetricFamily]:
    """Yield what waits, in each lane of the queues that are told apart, and of the others together."""
    apart = told_apart(queues)
    jobs = GaugeMetricFamily("alexq_queue_jobs", "Queued jobs.", labels=["queue", "lane", "state"])
    oldest = GaugeMetricFamily(
        "alexq_queue_oldest_seconds",
        "Since the message of the longest waiting job went out.",
        labels=["queue", "lane"],
    )
    for lane in Lane:
        there = {name: state.lanes[lane] for name, state in queues.items()}
        due = summed({name: one.jobs - one.resting for name, one in there.items()}, apart)
        resting = summed({name: one.resting for name, one in there.items()}, apart)
        for name in due:
            jobs.add_metric([name, lane.value, "due"], due[name])
            jobs.add_metric([name, lane.value, "resting"], resting[name])
            some = [there[name]] if name in there else [there[one] for one in there.keys() - set(apart)]
            oldest.add_metric([name, lane.value], max(one.oldest_s or 0.0 for one in some))
    yield jobs
    yield oldest


def _by_queue(
    name: str, documentation: str, queues: Mapping[str, QueueState], values: Mapping[str, float]
) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, documentation, labels=["queue"])
    for queue, value in summed(values, told_apart(queues)).items():
        family.add_metric([queue], value)
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
