"""What the whole system looks like, counted on real databases."""

from __future__ import annotations

import pytest
from sqlalchemy import event, update

from alexq_schema.db import overview
from alexq_schema.db.clock import db_now
from alexq_schema.db.overview import Overview, Waiting
from alexq_schema.db.session import Database
from alexq_schema.db.tables import Worker
from alexq_schema.names import Lane
from alexq_schema.work import Errored
from tests.helpers.system import System


@pytest.fixture
def system(database: Database) -> System:
    return System(database)


def look(system: System) -> Overview:
    with system.database.read() as connection:
        return overview.look(connection, silent_after_s=10.0)


def test_an_idle_system_is_all_zeros(system: System) -> None:
    assert look(system) == Overview(
        running=0, dead=0, alive=2, silent=0, waiting={lane: Waiting() for lane in Lane}
    )


def test_each_job_is_counted_where_it_is(system: System) -> None:
    waiting = system.queue(5)
    system.queue(2, lane=Lane.INTERACTIVE)
    system.change(waiting[:1], published_at=db_now(-100.0))
    running, resting, dead = system.claim(system.queue(3))
    system.pause_s = 60.0
    system.commit([Errored(resting, "code", "why"), Errored(dead, "code", "why", is_retryable=False)])

    seen = look(system)

    assert (seen.running, seen.dead) == (1, 1)
    assert seen.waiting[Lane.BULK].due == 5
    assert seen.waiting[Lane.BULK].resting == 1
    assert 100 <= seen.waiting[Lane.BULK].oldest_s < 160
    assert seen.waiting[Lane.INTERACTIVE].due == 2
    assert seen.waiting[Lane.INTERACTIVE].oldest_s < 60
    assert running.attempt == 1


def test_a_pause_that_is_over_is_none(system: System) -> None:
    [claim] = system.claim(system.queue(1))
    system.commit([Errored(claim, "code", "why")])

    assert look(system).waiting[Lane.BULK] == Waiting(due=1)


def test_workers_are_alive_silent_or_gone(system: System) -> None:
    system.silence(system.worker)
    ill, left, forgotten = system.join(), system.join(), system.join()
    with system.database.begin() as connection:
        for worker, values in (
            (ill, {"unhealthy_at": db_now()}),
            (left, {"stopped_at": db_now()}),
            (forgotten, {"last_seen_at": db_now(-3700.0)}),
        ):
            connection.execute(update(Worker).where(Worker.id == worker).values(values))

    seen = look(system)

    assert (seen.alive, seen.silent) == (1, 1)


def test_it_takes_four_statements(system: System) -> None:
    statements: list[str] = []

    def note(_c: object, _cursor: object, statement: str, *_: object) -> None:
        statements.append(statement)

    event.listen(system.database.engine, "before_cursor_execute", note)
    look(system)
    event.remove(system.database.engine, "before_cursor_execute", note)

    assert len([statement for statement in statements if statement.startswith("SELECT")]) == 4
