"""Images that come over a network are read ahead: many at once, few bytes, and an outage costs no job."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest

from alexq_schema.errors import ImageNotFoundError, ImageStoreError
from alexq_schema.names import Lane
from alexq_schema.work import Errored, Succeeded
from alexq_worker.pipeline import flow, pipeline
from alexq_worker.pipeline.fetch import ByteBudget
from tests.helpers.eventually import eventually
from tests.unit.pipeline.test_pipeline import Rig

FETCH_THREADS = 4


class Network:
    """A remote store that holds every read until the test lets it go, and counts those under way."""

    is_remote = True

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.open = threading.Event()
        self.reading: list[str] = []
        self.most = 0
        self.is_away = False
        self.refused: set[str] = set()
        self.tries = 0

    def get(self, key: str) -> bytes:
        image, _, _ = key.partition("#")
        with self.lock:
            self.reading.append(key)
            self.most = max(self.most, len(self.reading))
            self.tries += 1
        try:
            assert self.open.wait(60)
            if self.is_away or image in self.refused:
                raise ImageStoreError("the store does not answer")
            if image == "lost":
                raise ImageNotFoundError("no such image")
            return image.encode()
        finally:
            with self.lock:
                self.reading.remove(key)


@pytest.fixture
def network() -> Network:
    return Network()


@pytest.fixture
def rig(network: Network, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], Rig]]:
    """Start a pipeline, once the test has set its limits."""
    monkeypatch.setattr("alexq_worker.pipeline.fetch.RETRY_S", 0.02)
    rigs: list[Rig] = []

    def start() -> Rig:
        rigs.append(Rig(network))
        rigs[0].pipeline.start()
        return rigs[0]

    yield start
    network.open.set()
    network.is_away = False
    rigs[0].decoder.may_go.set()
    assert rigs[0].pipeline.stop(60)
    assert rigs[0].fatal == []


def test_as_many_images_are_read_at_once_as_there_are_threads(
    rig: Callable[[], Rig], network: Network
) -> None:
    running = rig()  # two decode threads
    jobs = running.table.queue(20)
    done = running.submit(jobs)

    eventually(lambda: len(network.reading) == FETCH_THREADS, 60)
    network.open.set()
    done.result(60)

    assert network.most == FETCH_THREADS
    assert network.tries == len(jobs)
    assert all(isinstance(running.table.outcomes[job], Succeeded) for job in jobs)


def test_no_more_bytes_are_read_ahead_than_there_is_room_for(
    rig: Callable[[], Rig], network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "AHEAD_BYTES", 300)
    running = rig()
    running.table.image_bytes = 100
    running.decoder.may_go.clear()
    network.open.set()

    done = running.submit(running.table.queue(20))

    eventually(lambda: network.tries == 3 + 2, 60)  # ahead; and in the hands of the two decoders
    running.decoder.may_go.set()
    done.result(60)
    assert network.tries == 20


def test_an_image_larger_than_the_room_goes_alone() -> None:
    budget, never = ByteBudget(100), threading.Event()
    budget.take(1000, never)
    waiting = threading.Thread(target=budget.take, args=(1, never))
    waiting.start()
    assert waiting.is_alive()
    budget.give(1000)
    waiting.join(60)
    assert not waiting.is_alive()


def test_an_interactive_image_is_read_before_the_bulk_that_waits(
    rig: Callable[[], Rig], network: Network
) -> None:
    running = rig()
    bulk = running.submit(running.table.queue(20, "7"))
    eventually(lambda: len(network.reading) == FETCH_THREADS, 60)
    single = running.submit(running.table.queue(1, "9"), Lane.INTERACTIVE)
    waiting = running.pipeline._claimed.queue
    eventually(lambda: [one.ticket.lane for _, one in waiting[:1] if one] == [Lane.INTERACTIVE], 60)

    network.open.set()

    single.result(60)
    assert running.engine.sizes
    bulk.result(60)


def test_an_outage_of_the_store_is_waited_out_and_costs_no_attempt(
    rig: Callable[[], Rig], network: Network
) -> None:
    running = rig()
    network.is_away = True
    network.open.set()
    jobs = running.table.queue(20)
    done = running.submit(jobs)
    eventually(lambda: network.tries > 3 * FETCH_THREADS, 60)
    assert running.table.outcomes == {}

    network.is_away = False
    done.result(60)

    assert all(isinstance(running.table.outcomes[job], Succeeded) for job in jobs)


def test_an_image_that_alone_is_refused_costs_its_job_an_attempt_and_no_other(
    rig: Callable[[], Rig], network: Network
) -> None:
    running = rig()
    network.refused = {"13"}
    network.open.set()
    good, [bad], [lost] = (
        running.table.queue(20),
        running.table.queue(1, "13"),
        running.table.queue(1, "lost"),
    )

    running.submit([bad, lost, *good]).result(60)

    assert {type(running.table.outcomes[job]) for job in good} == {Succeeded}
    outcomes = [running.table.outcomes[job] for job in (bad, lost)]
    assert [outcome.code for outcome in outcomes if isinstance(outcome, Errored)] == [
        "image_store_unavailable",
        "image_lost",
    ]


def test_stopping_during_an_outage_releases_what_was_not_read(
    rig: Callable[[], Rig], network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("alexq_worker.pipeline.fetch.RETRY_S", flow.RETRY_S * 60)
    running = rig()
    network.is_away = True
    network.open.set()
    jobs = running.table.queue(20)
    done = running.submit(jobs)
    eventually(lambda: network.tries == FETCH_THREADS, 60)

    assert running.pipeline.stop(60)

    assert sorted(running.table.released) == sorted(jobs)
    assert done.result(60).given_back == 20
    assert running.table.outcomes == {}
