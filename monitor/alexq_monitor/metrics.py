"""``/metrics`` of the dashboard: Flower's own, and what only the database and the broker know.

What is waited for is bounded: a source that does not answer in time is told as down, and what it knows is
left out. Belongs to the event loop; each source is read on a thread of its own.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final, Generic, TypeVar

import redis
from flower.app import Flower
from flower.views.monitor import Metrics as FlowerMetrics
from prometheus_client import REGISTRY
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from alexq_schema.db import overview
from alexq_schema.db.overview import Overview
from alexq_schema.db.session import Database
from alexq_schema.names import Lane
from alexq_schema.settings import Settings

FRESH_S: Final = 3.0
"""How long what was read is told again, at least."""
SHARE: Final = 0.05
"""Of the time, at most, that reading takes: what is slow to read is told again for longer."""
ANSWER_S: Final = 2.0
"""How long a scrape waits for a source."""

log = logging.getLogger("alexq.monitor")

T = TypeVar("T")


class Source(Generic[T]):
    """Reads one source: one at a time, for all who ask meanwhile."""

    def __init__(self, name: str, read: Callable[[], T], clock: Callable[[], float] = time.monotonic) -> None:
        """Prepare; ``read`` is called on a thread, and may raise or hang."""
        self.name = name
        self.value: T | None = None
        """What it told last; None: it is down."""
        self._read = read
        self._clock = clock
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"alexq-{name}")
        self._reading: asyncio.Task[None] | None = None
        self._fresh_until = -math.inf
        self._is_known_down = False

    async def ensure(self, within_s: float = ANSWER_S) -> None:
        """Return when ``value`` is fresh; ``within_s`` later it is None instead."""
        if self._clock() < self._fresh_until:
            return
        if self._reading is None:
            self._reading = asyncio.create_task(self._refresh())
        done, _ = await asyncio.wait({self._reading}, timeout=within_s)
        if not done:
            self._lose(f"no answer within {within_s:g} s")

    async def _refresh(self) -> None:
        began_at = self._clock()
        try:
            self.value = await asyncio.get_running_loop().run_in_executor(self._thread, self._read)
            self._is_known_down = False
        except Exception as error:  # noqa: BLE001 - whatever it is, the scrape goes on and says so
            self._lose(f"{type(error).__name__}: {error}")
        finally:
            self._reading = None
            now = self._clock()
            self._fresh_until = now + max(FRESH_S, (now - began_at) / SHARE)

    def _lose(self, why: str) -> None:
        self.value = None
        if not self._is_known_down:
            self._is_known_down = True
            log.warning("metrics of the %s are left out: %s", self.name, why)


class System(Collector):
    """What the sources told last, for a scrape."""

    def __init__(self, database: Source[Overview] | None, broker: Source[dict[Lane, int]]) -> None:
        self.database = database
        self.broker = broker

    @property
    def sources(self) -> Sequence[Source[Overview] | Source[dict[Lane, int]]]:
        """All that are to be read before a scrape."""
        return [self.broker] if self.database is None else [self.database, self.broker]

    def describe(self) -> Iterable[GaugeMetricFamily]:
        """Name nothing in advance: what there is depends on what answers."""
        return []

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """Yield the metrics; asks nobody."""
        up = GaugeMetricFamily(
            "alexq_source_up", "Whether a service answers the dashboard.", labels=["source"]
        )
        for source in self.sources:
            up.add_metric([source.name], float(source.value is not None))
        yield up
        if self.broker.value is not None:
            yield _by_lane("alexq_queue_messages", "Messages in the broker's queue.", self.broker.value)
        if self.database is not None and self.database.value is not None:
            yield from _told(self.database.value)


def _told(seen: Overview) -> Iterable[GaugeMetricFamily]:
    jobs = GaugeMetricFamily("alexq_queue_jobs", "Queued jobs.", labels=["lane", "state"])
    for lane, waiting in seen.waiting.items():
        jobs.add_metric([lane.value, "due"], waiting.due)
        jobs.add_metric([lane.value, "resting"], waiting.resting)
    yield jobs
    yield _by_lane(
        "alexq_queue_oldest_seconds",
        "Since the message of the longest waiting job went out.",
        {lane: waiting.oldest_s for lane, waiting in seen.waiting.items()},
    )
    yield GaugeMetricFamily("alexq_running_jobs", "Jobs that a worker holds.", value=seen.running)
    yield GaugeMetricFamily(
        "alexq_dead_jobs", f"Dead jobs, {overview.DEAD_COUNTED} at most.", value=seen.dead
    )
    workers = GaugeMetricFamily("alexq_workers", "Worker processes.", labels=["state"])
    workers.add_metric(["alive"], seen.alive)
    workers.add_metric(["silent"], seen.silent)
    yield workers


def _by_lane(name: str, documentation: str, values: dict[Lane, float] | dict[Lane, int]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, documentation, labels=["lane"])
    for lane, value in values.items():
        family.add_metric([lane.value], value)
    return family


class MetricsPage(FlowerMetrics):  # type: ignore[misc] # Flower has no types
    """``GET /metrics``."""

    def initialize(self, system: System) -> None:
        """Tell of ``system`` too."""
        self._system = system

    async def get(self) -> None:
        """Answer with everything in the default registry, its sources fresh."""
        await asyncio.gather(*(source.ensure() for source in self._system.sources))
        await super().get()


def install(flower: Flower, settings: Settings) -> None:
    """Let ``flower`` tell of the services that ``settings`` name; connects when it is first asked.

    Raises:
        SettingsError: the database's URL is malformed.
    """
    client = redis.Redis.from_url(
        settings.broker_url, socket_connect_timeout=ANSWER_S, socket_timeout=ANSWER_S
    )

    def messages() -> dict[Lane, int]:
        return {lane: int(client.llen(lane.queue)) for lane in Lane}

    database: Source[Overview] | None = None
    if settings.database_url:
        jobs = Database(settings.database_url)

        def look() -> Overview:
            with jobs.read() as connection:
                return overview.look(connection, silent_after_s=settings.silent_after_s)

        database = Source("database", look)
    system = System(database, Source("broker", messages))
    REGISTRY.register(system)
    prefix = f"/{flower.options.url_prefix.strip('/')}" if flower.options.url_prefix else ""
    flower.add_handlers(r".*", [(f"{prefix}/metrics", MetricsPage, {"system": system})])
