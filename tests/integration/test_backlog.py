"""What is unfinished, counted on real databases."""

from __future__ import annotations

import pytest

from alexq_schema.db import backlog
from alexq_schema.db.backlog import Held, Waiting
from alexq_schema.db.clock import db_now
from alexq_schema.db.session import Database
from alexq_schema.names import Lane, QueueLane
from alexq_schema.work import Errored
from tests.helpers.system import System, success


@pytest.fixture
def system(database: Database) -> System:
    return System(database)


def waiting(system: System, queue: str = "") -> dict[Lane, Waiting]:
    with system.database.read() as connection:
        found = backlog.waiting(connection)
    return {lane: one for (its_queue, lane), one in found.items() if its_queue == queue}


def running(system: System) -> int:
    with system.database.read() as connection:
        return sum(held.jobs for held in backlog.running(connection).values())


def test_nothing_waits_in_an_idle_system(system: System) -> None:
    assert waiting(system) == {Lane.INTERACTIVE: Waiting(), Lane.BULK: Waiting()}
    assert list(waiting(system)) == list(Lane)
    assert running(system) == 0


def test_jobs_are_counted_by_lane_with_the_age_of_the_oldest(system: System) -> None:
    bulk = system.queue(5)
    single = system.queue(2, lane=Lane.INTERACTIVE)
    system.change(bulk[1:2], published_at=db_now(-9_000.0))  # in whatever order ids are
    system.change(single[:1], published_at=db_now(-500.0))
    system.claim(bulk[3:])

    found = waiting(system)

    assert (found[Lane.INTERACTIVE].jobs, found[Lane.BULK].jobs, running(system)) == (2, 3, 2)
    assert found[Lane.INTERACTIVE].oldest_s == pytest.approx(500, abs=100)
    assert found[Lane.BULK].oldest_s == pytest.approx(9_000, abs=100)


def test_jobs_rest_after_an_error_of_ours_until_the_pause_is_over(system: System) -> None:
    resting, due = system.claim(system.queue(2))
    system.commit([Errored(due, "code", "why")])
    system.pause_s = 600.0
    system.commit([Errored(resting, "code", "why")])

    found = waiting(system)[Lane.BULK]

    assert (found.jobs, found.resting) == (2, 1)


def test_workers_that_hold_jobs_are_counted_once(system: System) -> None:
    for worker in (system.worker, system.worker, system.other):
        system.claim(system.queue(2), worker)

    with system.database.read() as connection:
        assert backlog.running(connection) == {"": Held(6, 2)}


def test_each_queue_is_counted_by_itself(system: System) -> None:
    system.queue(3)
    vip = system.queue(4, queue="vip")
    system.change(vip[:1], published_at=db_now(-30.0))
    done = system.claim(system.queue(2, queue="vip"), queue="vip")
    system.commit([success(claim) for claim in done])
    system.claim(vip[3:], queue="vip")

    assert (waiting(system)[Lane.BULK].jobs, waiting(system, "vip")[Lane.BULK].jobs) == (3, 3)
    with system.database.read() as connection:
        assert backlog.running(connection) == {"vip": Held(1, 1)}
        found = backlog.queues(connection)
        assert backlog.unserved(backlog.waiting(connection), {""}) == {"vip": 3}
    assert (found[QueueLane("vip", Lane.BULK)].finished, found[QueueLane("", Lane.BULK)].finished) == (2, 0)
    assert QueueLane("vip", Lane.INTERACTIVE) not in found
