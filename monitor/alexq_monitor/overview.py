"""The state of the whole system, read once for all who look."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from typing import Final

from redis import Redis
from sqlalchemy import Connection

from alexq_monitor import charts, queues
from alexq_monitor.advice import Advice, Situation, advise, drain_s
from alexq_monitor.charts import Chart
from alexq_monitor.history import LATE, Counts, History, Piece, open_from, read_piece
from alexq_monitor.queues import Fleet, QueueState
from alexq_monitor.scaling import Policy
from alexq_monitor.sources import Shared, Sources, or_error
from alexq_monitor.words import OTHERS, duration
from alexq_schema.db import backlog, dashboard, minutes
from alexq_schema.db.clock import now
from alexq_schema.db.dashboard import Dead, WorkerState
from alexq_schema.errors import AlexqError
from alexq_schema.job import JobState
from alexq_schema.names import DEFAULT_QUEUE, Lane, QueueLane, lanes_of

KEEP_S: Final = 1.0
"""How long one look serves all who ask."""
MISSED_BEATS: Final = 2.5
"""Heartbeats without any worker's sign after which that is said; fewer may be chance."""
SEEN_WITHIN_S: Final = 3_600.0
"""Workers that were last seen longer ago are not shown."""
SPANS: Final = (("Last hour", 1, 60), ("Last day", 15, 96), ("Last week", 120, 84))
"""Name, minutes a point, points."""


@dataclass(frozen=True, slots=True)
class Live:
    """What the database says now."""

    at: datetime
    minute: int
    queues: dict[str, QueueState]
    workers: list[WorkerState]
    last_seen_s: float | None
    dead: Dead
    is_empty: bool
    tail: Piece

    @property
    def running(self) -> int:
        """Jobs that workers hold."""
        return sum(state.held.jobs for state in self.queues.values())


@dataclass(frozen=True, slots=True)
class QueueRow:
    """One lane of one queue; None is not known."""

    queue: str
    lane: Lane
    jobs: int | None
    """That wait."""
    messages: int | None
    """In Redis."""


@dataclass(frozen=True, slots=True)
class View:
    """What the page shows; a panel whose source is away has the reason in its place."""

    advice: list[Advice]
    database_error: str | None = None
    broker_error: str | None = None
    rows: list[QueueRow] = field(default_factory=list)
    """What waits, by queue and lane."""
    at: datetime | None = None
    lanes: dict[Lane, int] = field(default_factory=dict)
    """Jobs that wait, of all queues."""
    waiting: int = 0
    running: int = 0
    oldest_s: float | None = None
    in_per_s: float = 0.0
    out_per_s: float = 0.0
    drain_s: float | None = None
    """None: at this rate, never."""
    mean_batch: float | None = None
    """Images in a forward pass, in the last hour."""
    mean_fill: float | None = None
    """How full that is, of what the workers alive take at once: 0 … 1."""
    hour: Counts = field(default_factory=Counts)
    dead: int = 0
    alive: list[WorkerState] = field(default_factory=list)
    gone: list[WorkerState] = field(default_factory=list)
    charts: list[Chart] = field(default_factory=list)
    history_from: datetime | None = None
    """Set while older minutes are still being read."""


class Overview:
    """Looks, at most every ``KEEP_S``, and only when somebody asks."""

    def __init__(self, sources: Sources, history: History) -> None:
        self._sources, self._history = sources, history
        self._silent_after_s = sources.settings.silent_after_s
        self._missed_after_s = MISSED_BEATS * sources.settings.heartbeat_s
        self._fleet = Fleet(Policy.of(sources.settings))
        self._known = [DEFAULT_QUEUE]
        self._live = Shared(self._look, KEEP_S)
        self._messages = Shared(lambda: sources.broker(partial(_messages, names=self._known)), KEEP_S)

    async def live(self) -> Live:
        """Return what the database says.

        Raises:
            DatabaseUnavailableError: nothing, in time.
        """
        return await self._live.get()

    async def messages(self) -> dict[QueueLane, int]:
        """Return how many messages wait in Redis, for the queues that the last look found and told apart.

        Raises:
            BrokerUnavailableError: it does not answer in time.
        """
        return await self._messages.get()

    def ended_lately(self, live: Live) -> dict[JobState, int]:
        """Return how many jobs ended in each state in the last hour."""
        return self._history.states(live.minute - 59, live.minute + 1)

    def is_alive(self, worker: WorkerState) -> bool:
        """Return whether a worker takes work."""
        return worker.is_alive(self._silent_after_s)

    async def view(self) -> View:
        """Return what to show; never raises for a source that is away."""
        messages, live = await asyncio.gather(or_error(self._messages.get()), or_error(self._live.get()))
        broker_error = str(messages) if isinstance(messages, AlexqError) else None
        known = messages if isinstance(messages, dict) else {}
        if isinstance(live, AlexqError):
            situation = Situation(database_error=str(live), broker_error=broker_error)
            return View(advise(situation), str(live), broker_error, _rows(None, known))
        return self._shown(live, broker_error, known)

    def _shown(self, live: Live, broker_error: str | None, messages: dict[QueueLane, int]) -> View:
        history, minute = self._history, live.minute
        recent = history.counts(minute - 1, minute + 1)
        recent_s = live.at.timestamp() - (minute - 1) * minutes.SECONDS
        hour = history.counts(minute - 59, minute + 1)
        alive = [worker for worker in live.workers if self.is_alive(worker)]
        gone = [worker for worker in live.workers if not self.is_alive(worker) and not worker.stopped]
        lanes = queues.of_lanes(live.queues)
        waits = [one.oldest_s for one in lanes.values() if one.oldest_s is not None]
        served = {worker.queue for worker in alive}
        unserved = backlog.unserved(lanes, served)
        missing = (
            max(0, state.wanted_workers - sum(worker.queue == name for worker in alive))
            for name, state in live.queues.items()
        )
        situation = Situation(
            broker_error=broker_error,
            waiting=sum(one.jobs for one in lanes.values()),
            unserved=tuple(unserved.items()),
            oldest_s=max(
                (one.oldest_s or 0.0 for at, one in lanes.items() if at.queue in served), default=0.0
            ),
            running=live.running,
            in_per_s=recent.came_in / recent_s,
            out_per_s=recent.ended / recent_s,
            workers=len(alive),
            wanted_workers=len(alive) + sum(missing),
            silent=tuple(
                f"{worker.name} ({duration(worker.silent_s)} ago)"
                for worker in gone
                if worker.unhealthy is None
            ),
            unhealthy=tuple((worker.name, worker.unhealthy) for worker in gone if worker.unhealthy),
            last_seen_s=live.last_seen_s,
            is_quiet=live.last_seen_s is not None and live.last_seen_s > self._missed_after_s,
            untrained=_untrained(alive),
            dead=live.dead.jobs,
            dead_code=live.dead.groups[0].error_code if live.dead.groups else None,
            dead_of_code=live.dead.groups[0].jobs if live.dead.groups else 0,
            dead_looked_at=live.dead.looked_at,
            succeeded=hour.succeeded,
            failed=hour.failed,
            is_empty=live.is_empty,
        )
        mean_batch = hour.images / hour.batches if hour.batches else None
        return View(
            advice=advise(situation),
            broker_error=broker_error,
            rows=_rows(live, messages),
            at=live.at,
            lanes={lane: sum(one.jobs for at, one in lanes.items() if at.lane is lane) for lane in Lane},
            waiting=situation.waiting,
            running=live.running,
            oldest_s=max(waits, default=None),
            in_per_s=situation.in_per_s,
            out_per_s=situation.out_per_s,
            drain_s=drain_s(situation),
            mean_batch=mean_batch,
            mean_fill=_fill(mean_batch, alive),
            hour=hour,
            dead=situation.dead,
            alive=alive,
            gone=gone,
            charts=[
                charts.flow(name, history.series(minute, step=step, points=points), step)
                for name, step, points in SPANS
            ],
            history_from=None if history.is_whole else minutes.start_of(history.known_from or minute),
        )

    async def _look(self) -> Live:
        live = await self._sources.read(self._read)
        self._history.put(live.tail)
        self._known = queues.told_apart(live.queues)
        # Of the last two minutes that are over, the quieter: a burst is seen as what waits.
        steady = min(self._history.counts(one, one + 1).came_in for one in (live.minute - 2, live.minute - 1))
        alive = [worker for worker in live.workers if self.is_alive(worker)]
        return replace(live, queues=self._fleet.decide(live.queues, alive, steady, live.at))

    def _read(self, connection: Connection) -> Live:
        at = now(connection)
        minute = minutes.minute_at(at)
        workers = dashboard.workers(connection, seen_within_s=SEEN_WITHIN_S)
        served = {worker.queue for worker in workers if self.is_alive(worker)}
        return Live(
            at=at,
            minute=minute,
            queues=queues.read(connection, at, minute, served),
            workers=workers,
            last_seen_s=dashboard.last_seen_s(connection),
            dead=dashboard.dead(connection),
            is_empty=minutes.oldest(connection) is None,
            tail=read_piece(connection, open_from(self._history, minute), minute + 1, minute - LATE),
        )


def _fill(mean_batch: float | None, alive: list[WorkerState]) -> float | None:
    limits = [worker.batch_limit for worker in alive if worker.batch_limit]
    return None if mean_batch is None or not limits else min(1.0, mean_batch / (sum(limits) / len(limits)))


def _untrained(alive: list[WorkerState]) -> tuple[str, ...]:
    models = {f"{worker.model.name}/{worker.model.version}" for worker in alive if not worker.model.trained}
    return tuple(sorted(models))


def _rows(live: Live | None, messages: dict[QueueLane, int]) -> list[QueueRow]:
    """Return a row for each lane of the queues that are told apart; the others' last, as one."""
    if live is None:
        return [QueueRow(at.queue, at.lane, None, count) for at, count in messages.items()]
    apart = queues.told_apart(live.queues)
    rows: list[QueueRow] = []
    for name in [*apart, *([OTHERS] if len(live.queues) > len(apart) else [])]:
        for lane in Lane:
            jobs = queues.summed({one: state.lanes[lane].jobs for one, state in live.queues.items()}, apart)
            rows.append(QueueRow(name, lane, int(jobs[name]), messages.get(QueueLane(name, lane))))
    return rows


def _messages(redis: Redis, names: Sequence[str]) -> dict[QueueLane, int]:
    lanes = [lane for name in names for lane in lanes_of(name)]
    with redis.pipeline(transaction=False) as pipe:
        for lane in lanes:
            pipe.llen(lane.name)
        return dict(zip(lanes, pipe.execute(), strict=True))
