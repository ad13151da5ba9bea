"""The parts of admission that ask nobody: estimates, sums, and when to count again."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from alexq_producer.gateway.drain import drain_s
from alexq_producer.gateway.ledger import Ledger
from alexq_producer.gateway.rate import parse_rate
from alexq_producer.gateway.refreshed import FRESH_S, SHARE, STALE, Refreshed
from alexq_schema.db.backlog import Queue, Usage
from alexq_schema.errors import DatabaseUnavailableError, SettingsError


@pytest.mark.parametrize(
    ("queue", "added", "expected_s"),
    [
        (Queue(jobs=0, waited_s=0.0, finished=0), 0, 0.0),  # nothing waits
        (Queue(jobs=600, waited_s=30.0, finished=300), 0, 60.0),  # 10 a second for half a minute
        (Queue(jobs=600, waited_s=3_600.0, finished=600), 0, 60.0),  # the last minute counts
        (Queue(jobs=500, waited_s=30.0, finished=300), 100, 60.0),  # what came since counts too
        (Queue(jobs=10_000, waited_s=2.0, finished=1), 0, 2.0),  # too short to say how fast they are
        (Queue(jobs=10_000, waited_s=2_000.0, finished=0), 0, 2_000.0),  # nobody works
    ],
)
def test_what_waits_takes_as_long_as_its_number_over_the_speed(
    queue: Queue, added: int, expected_s: float
) -> None:
    assert drain_s(queue, added) == pytest.approx(expected_s)


def test_what_comes_while_a_count_runs_counts_until_the_next() -> None:
    ledger: Ledger[str] = Ledger()
    one, two, three = Usage(1, 10), Usage(2, 20), Usage(3, 30)
    for usage in (one, two, three):
        ledger.add("shop", usage)
    ledger.close("shop", one, is_committed=True)
    assert ledger.of("shop") == Usage(6, 60)

    ledger.count_begins()  # the first is in it; the second may be
    ledger.close("shop", two, is_committed=True)
    assert ledger.of("shop") == Usage(6, 60)
    ledger.count_ends()
    assert ledger.of("shop") == Usage(5, 50)

    ledger.count_begins()
    ledger.close("shop", three, is_committed=False)
    ledger.count_ends()
    assert ledger.of("shop") == Usage(0, 0)
    assert ledger.of("other") == Usage(0, 0)


def test_a_count_that_fails_loses_nothing() -> None:
    ledger: Ledger[str] = Ledger()
    ledger.add("shop", Usage(1, 10))
    ledger.close("shop", Usage(1, 10), is_committed=True)
    ledger.count_begins()
    ledger.count_begins()

    assert ledger.of("shop") == Usage(1, 10)


class Source:
    """Something to read, on a clock that is set by hand."""

    def __init__(self) -> None:
        self.now_s = 1_000.0
        self.takes_s = 0.0
        self.reads = 0
        self.error: Exception | None = None
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.refreshed = Refreshed(self.read, clock=lambda: self.now_s)

    async def read(self) -> None:
        self.reads += 1
        await self.may_answer.wait()
        self.now_s += self.takes_s
        if self.error:
            raise self.error


@pytest.fixture
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


def test_fifty_who_ask_at_once_have_it_read_once(runner: asyncio.Runner) -> None:
    async def ask() -> int:
        source = Source()
        await asyncio.gather(*(source.refreshed.ensure() for _ in range(50)))
        source.now_s += FRESH_S * 0.9
        await source.refreshed.ensure()
        return source.reads

    assert runner.run(ask()) == 1


def test_nobody_waits_for_a_count_that_is_a_little_old(runner: asyncio.Runner) -> None:
    async def ask() -> None:
        source = Source()
        await source.refreshed.ensure()
        source.may_answer.clear()
        source.now_s += FRESH_S * 1.1

        async with asyncio.timeout(10):
            await source.refreshed.ensure()  # is back before it is read
            await asyncio.sleep(0)
        assert source.reads == 2

        source.now_s += FRESH_S * STALE
        waiting = asyncio.ensure_future(source.refreshed.ensure())  # nobody has asked for long
        await asyncio.sleep(0)
        assert not waiting.done()
        source.may_answer.set()
        await waiting

    runner.run(ask())


def test_what_is_slow_to_read_is_read_less_often(runner: asyncio.Runner) -> None:
    async def ask() -> int:
        source = Source()
        source.takes_s = 2.0
        await source.refreshed.ensure()
        source.now_s += 2.0 / SHARE - 5.0
        await source.refreshed.ensure()
        return source.reads

    assert runner.run(ask()) == 1


def test_only_who_waits_for_it_hears_that_it_cannot_be_read(runner: asyncio.Runner) -> None:
    async def ask() -> None:
        source = Source()
        source.error = DatabaseUnavailableError("away")
        with pytest.raises(DatabaseUnavailableError):
            await source.refreshed.ensure()
        source.error = None
        await source.refreshed.ensure()
        source.error = DatabaseUnavailableError("away")
        source.now_s += FRESH_S * 1.1
        await source.refreshed.ensure()
        await asyncio.sleep(0)
        assert source.reads == 3

    runner.run(ask())


def test_a_rate_is_written_as_images_per_time() -> None:
    assert [(limit.amount, limit.get_expiry()) for limit in parse_rate("200/second;10000/minute")] == [
        (200, 1),
        (10_000, 60),
    ]
    for wrong in ("many", "200", "0/second", "10/fortnight"):
        with pytest.raises(SettingsError, match="ALEXQ_GATEWAY_RATE"):
            parse_rate(wrong)
