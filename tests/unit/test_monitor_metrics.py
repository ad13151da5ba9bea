"""What a scrape of the dashboard waits for, and what it does not."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import pytest

from alexq_monitor.metrics import Source, System
from alexq_schema.db.overview import Overview
from alexq_schema.names import Lane


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


class Reader:
    """Counts how often it is read; may be held up, or fail."""

    def __init__(self) -> None:
        self.reads = 0
        self.may_answer = threading.Event()
        self.may_answer.set()
        self.error: Exception | None = None
        self.during: Callable[[], None] = lambda: None

    def __call__(self) -> int:
        self.reads += 1
        assert self.may_answer.wait(10)
        self.during()
        if self.error:
            raise self.error
        return self.reads


@pytest.fixture
def reader() -> Reader:
    return Reader()


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_it_is_read_once_for_all_who_ask_meanwhile_and_soon_after(reader: Reader, clock: Clock) -> None:
    source = Source("database", reader, clock)

    async def scrapes() -> None:
        await asyncio.gather(*(source.ensure() for _ in range(5)))
        clock.now_s += 2.9
        await source.ensure()
        assert (reader.reads, source.value) == (1, 1)
        clock.now_s += 0.2
        await source.ensure()
        assert (reader.reads, source.value) == (2, 2)

    asyncio.run(scrapes())


def test_what_is_slow_to_read_is_read_less_often(reader: Reader, clock: Clock) -> None:
    source = Source("database", reader, clock)

    def take_a_second() -> None:
        clock.now_s += 1.0

    reader.during = take_a_second

    async def scrapes() -> None:
        await source.ensure()
        clock.now_s += 19.9
        await source.ensure()
        assert reader.reads == 1
        clock.now_s += 0.2
        await source.ensure()
        assert reader.reads == 2

    asyncio.run(scrapes())


def test_a_source_that_hangs_is_down_and_is_not_asked_again(
    reader: Reader, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    source = Source("broker", reader, clock)

    async def scrapes() -> None:
        await source.ensure()
        clock.now_s += 10.0
        reader.may_answer.clear()
        for _ in range(3):
            await source.ensure(within_s=0.01)
            assert source.value is None
        assert reader.reads == 2
        reader.may_answer.set()
        await source.ensure()
        assert source.value == 2

    asyncio.run(scrapes())
    assert len(caplog.messages) == 1  # not one for each scrape
    assert "broker" in caplog.messages[0]


def test_a_source_that_fails_is_down_until_it_answers(reader: Reader, clock: Clock) -> None:
    source = Source("database", reader, clock)

    async def scrapes() -> None:
        reader.error = RuntimeError("not there")
        await source.ensure()
        assert source.value is None
        clock.now_s += 4.0
        reader.error = None
        await source.ensure()
        assert source.value == 2

    asyncio.run(scrapes())


def test_what_a_source_that_is_down_knew_is_left_out() -> None:
    database: Source[Overview] = Source("database", lambda: Overview(1, 2, 3, 4))
    broker: Source[dict[Lane, int]] = Source("broker", lambda: {Lane.BULK: 7})
    system = System(database, broker)

    def names() -> set[str]:
        return {family.name for family in system.collect()}

    assert names() == {"alexq_source_up"}
    asyncio.run(database.ensure())
    assert "alexq_workers" in names()
    assert "alexq_queue_messages" not in names()
    [up] = [family for family in system.collect() if family.name == "alexq_source_up"]
    assert {sample.labels["source"]: sample.value for sample in up.samples} == {"database": 1, "broker": 0}
