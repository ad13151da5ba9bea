"""How many workers the dashboard wants, from what the database says."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

import pytest

from alexq_monitor.history import History
from alexq_monitor.overview import Live, Overview
from alexq_monitor.sources import Sources
from alexq_schema.db.clock import db_now
from alexq_schema.db.session import Database
from alexq_schema.settings import Settings
from tests.helpers.system import System, success

Look = Callable[..., Live]


@pytest.fixture
def look(database_url: str) -> Iterator[Look]:
    """Look as a dashboard that has just started, with these settings."""
    opened: list[Sources] = []

    def look(**scale: float) -> Live:
        known = {"database_url": database_url, "broker_url": "redis://nowhere", "silent_after_s": 600.0}
        sources = Sources(Settings.load(**known, **scale))
        opened.append(sources)
        return asyncio.run(Overview(sources, History()).live())

    yield look
    for sources in opened:
        sources._database.close()


def test_what_waits_and_what_workers_did_meanwhile_say_how_many_are_wanted(
    look: Look, database: Database
) -> None:
    """Two workers did 100 jobs in the last minute, as the oldest waited for longer: 5 jobs in 6 s each."""
    system = System(database)
    waiting = system.queue(900)
    system.change(waiting[:1], published_at=db_now(-600.0))
    for worker in (system.worker, system.other):
        system.start_earlier(worker, 6_000.0)
        system.commit([success(claim) for claim in system.claim(system.queue(50), worker)], worker)

    live = look(scale_drain_s=300.0)

    assert (live.queues[""].finished, live.queues[""].held.workers) == (100, 0)
    assert live.queues[""].wanted_workers == 4


def test_where_nothing_waits_nobody_is_taken_away_who_holds_a_job(look: Look, database: Database) -> None:
    system = System(database)
    assert look().queues[""].wanted_workers == 2, (
        "a dashboard that has just started does not know what was needed"
    )
    system.claim(system.queue(3))
    live = look()
    assert (live.running, live.queues[""].held.workers, live.queues[""].wanted_workers) == (3, 1, 2)


def test_each_queue_has_a_number_of_its_own(look: Look, database: Database) -> None:
    system = System(database)
    system.queue(900, queue="vip")
    system.claim(system.queue(3, queue="gold"), queue="gold")

    wanted = {name: state.wanted_workers for name, state in look(scale_rate=5.0).queues.items()}

    assert wanted == {"": 2, "gold": 1, "vip": 3}, "the two that are alive serve the default queue"
