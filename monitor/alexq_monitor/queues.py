"""What waits, is held and is done in each queue, and how many workers each should have.

So many queues are told apart; what more there are is told as one, so that neither a page nor the number of
series grows with what producers call their queues.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import Connection

from alexq_monitor.scaling import Autoscaler, Load, Policy
from alexq_monitor.words import OTHERS
from alexq_schema.db import backlog, minutes
from alexq_schema.db.backlog import Held, Waiting
from alexq_schema.db.dashboard import WorkerState
from alexq_schema.names import DEFAULT_QUEUE, Lane, QueueLane

TOLD_APART: Final = 20
"""Queues with a name that are told apart."""
MEASURED_S: Final = 5.0
"""Jobs must have waited for so long for the work that was done meanwhile to show how fast workers are."""


@dataclass(frozen=True, slots=True)
class QueueState:
    """One queue now."""

    lanes: Mapping[Lane, Waiting] = field(default_factory=lambda: {lane: Waiting() for lane in Lane})
    held: Held = Held()  # noqa: RUF009 - it is frozen
    busy_s: float = 0.0
    """Time, up to now, in which there was always something to do."""
    finished: int = 0
    """What workers finished in it."""
    came_in: int = 0
    """Jobs of the last two whole minutes' quieter one."""
    wanted_workers: int = 0
    """How many there should be."""

    @property
    def waiting(self) -> int:
        """Jobs that wait."""
        return sum(lane.jobs for lane in self.lanes.values())


def read(connection: Connection, at: datetime, minute: int, served: Iterable[str]) -> dict[str, QueueState]:
    """Return the state of each queue in which something waits or is held, or that is ``served``.

    The default queue comes first, the others by their names.

    Args:
        at: the database's time, in ``minute``.
        served: queues of workers that are alive.
    """
    waiting, held = backlog.waiting(connection), backlog.running(connection)
    lanes: defaultdict[str, dict[Lane, Waiting]] = defaultdict(lambda: {lane: Waiting() for lane in Lane})
    for lane, one in waiting.items():
        lanes[lane.queue][lane.lane] = one
    names = sorted({DEFAULT_QUEUE, *lanes, *held, *served})
    busy_s = {
        name: min(max(one.oldest_s or 0.0 for one in lanes[name].values()), backlog.WINDOW_S)
        for name in names
    }
    measured = [name for name in names if busy_s[name] >= MEASURED_S]
    asked = [(name, at - timedelta(seconds=busy_s[name])) for name in measured]
    finished = dict(zip(measured, backlog.worked_off(connection, asked), strict=True))
    came_in = minutes.came_in_by_queue(connection, minute - 2, minute) if len(names) > 1 else {}
    return {
        name: QueueState(
            lanes[name],
            held.get(name, Held()),
            busy_s[name],
            finished.get(name, 0),
            min(came_in.get((name, one), 0) for one in (minute - 2, minute - 1)),
        )
        for name in names
    }


def told_apart(queues: Mapping[str, QueueState]) -> list[str]:
    """Return the names of those that are told apart: the default one, and those with most to do."""
    named = sorted(queues.keys() - {DEFAULT_QUEUE}, key=lambda name: (-queues[name].waiting, name))
    return [DEFAULT_QUEUE, *sorted(named[:TOLD_APART])]


def summed(values: Mapping[str, float], apart: Sequence[str]) -> dict[str, float]:
    """Return the values of those that are told apart, and, where there are more, the others' sum."""
    told = {name: values.get(name, 0.0) for name in apart}
    if others := values.keys() - told.keys():
        told[OTHERS] = sum(values[name] for name in others)
    return told


class Fleet:
    """How many workers each queue should have. For one thread."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._scalers: dict[str, Autoscaler] = {}

    def decide(
        self, queues: Mapping[str, QueueState], alive: Sequence[WorkerState], total_in: int, at: datetime
    ) -> dict[str, QueueState]:
        """Return the queues with the workers that they should have.

        Args:
            alive: every worker that takes work.
            total_in: jobs that came in for all of them, in the quieter of the last two whole minutes.
        """
        named_in = sum(state.came_in for name, state in queues.items() if name)
        self._scalers = {name: self._scalers.get(name) or Autoscaler(self._policy) for name in queues}
        decided: dict[str, QueueState] = {}
        for name, state in queues.items():
            came_in = state.came_in if name else max(0, total_in - named_in)
            theirs = [worker for worker in alive if worker.queue == name]
            load = _load(state, came_in / minutes.SECONDS, theirs, at)
            wanted = self._scalers[name].decide(load, at.timestamp())
            decided[name] = replace(state, came_in=came_in, wanted_workers=wanted)
        return decided


def _load(state: QueueState, in_per_s: float, alive: Sequence[WorkerState], at: datetime) -> Load:
    ages = ((at - worker.started_at).total_seconds() for worker in alive)
    worked_s = sum(min(state.busy_s, max(0.0, age)) for age in ages)
    return Load(
        waiting={lane: waiting.jobs - waiting.resting for lane, waiting in state.lanes.items()},
        running=state.held.jobs,
        in_per_s=in_per_s,
        rate=state.finished / worked_s if worked_s >= MEASURED_S else None,
        alive=len(alive),
        busy=state.held.workers,
    )


def of_lanes(queues: Mapping[str, QueueState]) -> dict[QueueLane, Waiting]:
    """Return what waits in each lane."""
    return {QueueLane(name, lane): one for name, state in queues.items() for lane, one in state.lanes.items()}
