"""What the dashboard's ``/metrics`` tells of what its sources told last."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from alexq_monitor.history import Piece
from alexq_monitor.metrics import System
from alexq_monitor.overview import Live
from alexq_monitor.queues import TOLD_APART, QueueState
from alexq_schema.db.backlog import Held, Waiting
from alexq_schema.db.dashboard import Dead, WorkerState
from alexq_schema.errors import BrokerUnavailableError, DatabaseUnavailableError
from alexq_schema.job import JobState, ModelRef
from alexq_schema.names import Lane, QueueLane

AT = datetime(2026, 11, 24, tzinfo=UTC)
BULK = QueueLane("", Lane.BULK)


def worker(silent_s: float = 0.0, unhealthy: str | None = None, *, stopped: bool = False) -> WorkerState:
    model = ModelRef(name="alexnet", version="1", precision="fp32", trained=True)
    return WorkerState(UUID(int=1), "gpu-1", 4711, "cpu", model, AT, silent_s, stopped, unhealthy)


def state(**known: Any) -> QueueState:
    return QueueState({Lane.INTERACTIVE: Waiting(), Lane.BULK: Waiting(5, 2, 12.5)}, **known)


def live(*workers: WorkerState, others: dict[str, QueueState] | None = None) -> Live:
    return Live(
        at=AT,
        minute=0,
        queues={"": state(wanted_workers=4, held=Held(3, 1))} | (others or {}),
        workers=list(workers),
        last_seen_s=None,
        dead=Dead(jobs=5),
        is_empty=False,
        tail=Piece(0, 0, {}, 0, {}),
    )


@pytest.fixture
def system() -> System:
    return System(lambda worker: worker.is_alive(10.0))


def told(system: System) -> dict[tuple[str, ...], float]:
    return {
        (sample.name, *filter(None, sample.labels.values())): sample.value
        for family in system.collect()
        for sample in family.samples
    }


def test_everything_that_is_known_is_told(system: System) -> None:
    system.live = live(worker(), worker(99.0), worker(99.0, stopped=True), worker(unhealthy="broke"))
    system.messages = {QueueLane("", Lane.INTERACTIVE): 0, BULK: 7}
    system.ended = {JobState.CANCELLED: 3}

    assert told(system) == {
        ("alexq_source_up", "database"): 1,
        ("alexq_source_up", "broker"): 1,
        ("alexq_queue_messages", "interactive"): 0,
        ("alexq_queue_messages", "bulk"): 7,
        ("alexq_queue_jobs", "interactive", "due"): 0,
        ("alexq_queue_jobs", "interactive", "resting"): 0,
        ("alexq_queue_jobs", "bulk", "due"): 3,
        ("alexq_queue_jobs", "bulk", "resting"): 2,
        ("alexq_queue_oldest_seconds", "interactive"): 0,
        ("alexq_queue_oldest_seconds", "bulk"): 12.5,
        ("alexq_running_jobs",): 3,
        ("alexq_dead_jobs",): 5,
        ("alexq_ended_jobs", "cancelled"): 3,
        ("alexq_workers", "alive"): 1,
        ("alexq_workers", "silent"): 1,
        ("alexq_wanted_workers",): 4,
    }


def test_what_a_source_that_is_down_knew_is_left_out(system: System) -> None:
    assert told(system) == {("alexq_source_up", "database"): 0, ("alexq_source_up", "broker"): 0}

    system.live, system.messages = DatabaseUnavailableError("down"), {BULK: 7}

    assert told(system) == {
        ("alexq_source_up", "database"): 0,
        ("alexq_source_up", "broker"): 1,
        ("alexq_queue_messages", "bulk"): 7,
    }

    system.live, system.messages = live(), BrokerUnavailableError("down")

    assert told(system)["alexq_source_up", "database"] == 1
    assert ("alexq_queue_messages", "bulk") not in told(system)


def test_each_queue_is_told_and_the_number_of_series_is_bounded(system: System) -> None:
    few = {"gold": state(wanted_workers=2), "vip": state()}
    system.live = live(replace(worker(), queue="vip"), others=few)
    of_few = told(system)
    assert of_few["alexq_wanted_workers", "gold"] == 2
    assert (of_few["alexq_workers", "vip", "alive"], of_few["alexq_workers", "gold", "alive"]) == (1, 0)
    assert of_few["alexq_queue_jobs", "vip", "bulk", "due"] == 3

    many = {f"q{number:03}": state(held=Held(1, 1)) for number in range(3 * TOLD_APART)}
    system.live = live(replace(worker(), queue="q059"), others=many)
    of_many = told(system)
    system.live = live(
        replace(worker(), queue="q059"), others={**many, **{f"r{n}": state() for n in range(99)}}
    )
    assert told(system).keys() == of_many.keys()
    assert of_many["alexq_running_jobs", "_others"] == 2 * TOLD_APART
    assert of_many["alexq_workers", "_others", "alive"] == 1
    assert of_many["alexq_queue_oldest_seconds", "_others", "bulk"] == 12.5
