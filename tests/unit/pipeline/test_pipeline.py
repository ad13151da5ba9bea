"""The pipeline's promises, with a table in memory and a model that only counts."""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import numpy as np
import pytest
from numpy.typing import NDArray

from alexq_schema.errors import (
    DatabaseFullError,
    DatabaseUnavailableError,
    DeviceMemoryError,
    ImageCorruptError,
    ImageNotFoundError,
    ModelInvalidError,
    ModelNotFoundError,
)
from alexq_schema.ids import new_id
from alexq_schema.job import Job, JobState
from alexq_schema.names import Lane
from alexq_schema.options import Options
from alexq_schema.work import Claim, Crashed, Errored, Failed, Late, Outcome, Predictions, Reused, Succeeded
from alexq_worker.pipeline.commit import CommitReport
from alexq_worker.pipeline.pipeline import Pipeline
from alexq_worker.pipeline.policy import BatchPolicy
from alexq_worker.pipeline.ports import Answer, ImageLoader, Pixels, Version
from alexq_worker.pipeline.residents import Resident, Residents
from alexq_worker.pipeline.ticket import Summary
from tests.helpers.eventually import eventually

MAX_BATCH = 8


@dataclass
class Committed:
    states: Mapping[JobState, int] = field(default_factory=dict)
    fenced: int = 0
    answers: Mapping[UUID, Job] = field(default_factory=dict)


class MemoryTable:
    """Jobs in a set; counts its transactions."""

    def __init__(self) -> None:
        self.queued: dict[UUID, str] = {}
        self.errors: dict[UUID, int] = {}
        self.crashes: dict[UUID, int] = {}
        self.left_s: dict[UUID, float] = {}
        self.pinned: dict[UUID, str] = {}
        self.options: dict[UUID, Mapping[str, Any]] = {}
        self.outcomes: dict[UUID, Outcome] = {}
        self.released: list[UUID] = []
        self.calls: list[str] = []
        self.outages = 0
        self.image_bytes = 0
        self.past: dict[tuple[str, int], Predictions] = {}
        self._numbers = itertools.count()

    def queue(self, count: int, image: str = "7", crashes: int = 0, pinned: str | None = None) -> list[UUID]:
        """Queue jobs of as many images, each with a key of its own: what is said of it, and a number."""
        job_ids = [new_id() for _ in range(count)]
        self.pinned |= {} if pinned is None else dict.fromkeys(job_ids, pinned)
        self.queued.update({job_id: f"{image}#{next(self._numbers)}" for job_id in job_ids})
        self.crashes.update(dict.fromkeys(job_ids, crashes))
        return job_ids

    def queue_same(self, count: int, image: str = "7", pinned: str | None = None) -> list[UUID]:
        """Queue jobs of one image."""
        job_ids = self.queue(count, image, pinned=pinned)
        self.queued.update(dict.fromkeys(job_ids, f"{image}#same"))
        return job_ids

    def claim(self, job_ids: Sequence[UUID]) -> list[Claim]:
        self._answer("claim")
        taken = [job_id for job_id in job_ids if job_id in self.queued]
        return [
            Claim(
                job_id,
                attempt=1,
                submission_id=None,
                task="task",
                source="source",
                image_key=self.queued.pop(job_id),
                errors=self.errors.get(job_id, 0),
                crashes=self.crashes.get(job_id, 0),
                image_bytes=self.image_bytes,
                pinned=self.pinned.get(job_id),
                options=self.options.get(job_id),
                left_s=self.left_s.get(job_id),
            )
            for job_id in taken
        ]

    def find_past(self, claims: Sequence[Claim], model_id: int) -> list[Reused]:
        """Answer those whose image some job of this version has been answered with before."""
        self._answer("find_past")
        return [
            Reused(claim, self.past[claim.image_key, model_id], model_id, UUID(int=1))
            for claim in claims
            if (claim.image_key, model_id) in self.past
        ]

    def commit(self, outcomes: Sequence[Outcome]) -> Committed:
        self._answer("commit")
        for outcome in outcomes:
            assert outcome.claim.job_id not in self.outcomes, "committed twice"
            self.outcomes[outcome.claim.job_id] = outcome
        return Committed()

    def release(self, claims: Sequence[Claim]) -> None:
        self._answer("release")
        self.released += [claim.job_id for claim in claims]

    def _answer(self, call: str) -> None:
        if self.outages > 0:
            self.outages -= 1
            raise DatabaseUnavailableError("down")
        self.calls.append(call)


class Images:
    """The key is the image: a grey value, or the name of what is wrong, and a number."""

    def __init__(self, *, is_remote: bool = False) -> None:
        self.is_remote = is_remote

    def get(self, key: str) -> bytes:
        image, _, _ = key.partition("#")
        if image == "lost":
            raise ImageNotFoundError("no such image")
        return image.encode()


class Grey:
    def __init__(self, value: int) -> None:
        self._value = value

    def write_to(self, out: Pixels) -> None:
        out[...] = self._value


class GreyTen:
    """Ten crops: of the value, the value after it, and so on."""

    def __init__(self, value: int) -> None:
        self._value = value

    def write_to(self, out: Pixels) -> None:
        assert len(out) == 10
        for number, slot in enumerate(out):
            slot[...] = self._value + number


class GreyDecoder:
    """May be held, as a slow image would hold it."""

    def __init__(self) -> None:
        self.may_go = threading.Event()
        self.may_go.set()
        self.begun: list[bytes] = []

    def decode(self, data: bytes, crops: int = 1) -> Grey | GreyTen:
        self.begun.append(data)
        assert self.may_go.wait(120)
        if data == b"corrupt":
            raise ImageCorruptError("broken")
        if data == b"bug":
            raise ZeroDivisionError("in the decoder")
        return Grey(int(data)) if crops == 1 else GreyTen(int(data))


@dataclass
class Top:
    indices: NDArray[np.int64]
    probabilities: NDArray[np.float32]


class GreyEngine:
    """Answers each image's own grey value, so that a mix-up shows; may be held, as a busy device."""

    labels = tuple(f"grey {value}" for value in range(256))

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.may_go = threading.Event()
        self.may_go.set()
        self.fails = False
        self.cannot = -1  # a grey value
        self.limit = MAX_BATCH
        self.memory = MAX_BATCH
        self.scored: list[int] = []
        self.checks = 0
        self.is_busy = self.is_closed = False

    @property
    def batch_limit(self) -> int:
        return self.limit

    def lower_limit(self) -> None:
        self.limit = max(1, self.limit // 2)

    def check(self) -> None:
        self.checks += 1
        if self.fails:
            raise RuntimeError("out of order, whatever the image")

    def close(self) -> None:
        assert not self.is_busy, "closed in the middle of a batch"
        self.is_closed = True

    def new_batch(self) -> Pixels:
        return np.zeros((MAX_BATCH, 2, 2, 3), np.uint8)

    def classify(self, images: Pixels) -> Top:
        assert not self.is_closed
        self.is_busy = True
        try:
            return self._classify(images)
        finally:
            self.is_busy = False

    def score(self, images: Pixels, wanted: Sequence[Options]) -> list[Answer]:
        """Answer the values of each image's entries, halved in probability from one to the next."""
        self.scored.append(len(images))
        values = images[:, 0, 0, 0].tolist()
        if min(len(images), self.limit) > self.memory:  # they go through in parts
            raise DeviceMemoryError("out of memory")
        if self.fails or self.cannot in values:
            raise RuntimeError("out of order")
        answers: list[Answer] = []
        for one in wanted:
            mine, values = values[: one.entries], values[one.entries :]
            answers.append((mine[: one.top_k], [0.5 ** (n + 1) for n in range(len(mine))][: one.top_k]))
        assert not values
        return answers

    def _classify(self, images: Pixels) -> Top:
        self.sizes.append(len(images))
        values = images[:, :1, 0, 0].astype(np.int64)
        assert self.may_go.wait(120)
        if len(images) > self.memory:
            raise DeviceMemoryError("out of memory")
        if self.fails or self.cannot in values:
            raise RuntimeError("out of order")
        return Top(values, np.ones(values.shape, np.float32))


class Child:
    """Stands for the child process; may be held, as a slow job would hold it."""

    def __init__(self) -> None:
        self.ran: list[Claim] = []
        self.is_stopped = threading.Event()
        self.may_go = threading.Event()
        self.may_go.set()

    def classify(self, claim: Claim, version: Version) -> Outcome:
        self.ran.append(claim)
        while not self.may_go.wait(0.01):
            if self.is_stopped.is_set():
                return Errored(claim, "engine_failed", "the worker is stopping")
        image, _, _ = claim.image_key.partition("#")
        if image == "poison":
            return Crashed(claim, "SIGSEGV")
        predictions = version.predictions.write([int(image)], [1.0])
        return Succeeded(claim, predictions, version.model_id, 0.0, 0.0, 1)

    def stop(self) -> None:
        self.is_stopped.set()


class Rig:
    def __init__(self, images: ImageLoader | None = None) -> None:
        self.table = MemoryTable()
        self.decoder = GreyDecoder()
        self.engine = GreyEngine()
        self.loading: list[str] = []
        self.loaded: list[GreyEngine] = []
        self.wrong: dict[str, Exception] = {}
        self.may_load = threading.Event()
        self.may_load.set()
        self.residents = Residents(self.resident(1, self.engine), self.load, limit=2)
        self.isolation = Child()
        self.reports: list[CommitReport] = []
        self.room = threading.Event()
        self.fatal: list[Exception] = []
        self.pipeline = Pipeline(
            table=self.table,
            images=images or Images(),
            residents=self.residents,
            isolation=self.isolation,
            max_batch=MAX_BATCH,
            decode_threads=2,
            fetch_threads=4,
            on_committed=self.reports.append,
            on_room=self.room.set,
            on_fatal=self.fatal.append,
        )

    def resident(self, model_id: int, engine: GreyEngine) -> Resident:
        return Resident(
            f"grey/{model_id}",
            model_id,
            decoder=self.decoder,
            engine=engine,
            labels=GreyEngine.labels,
            max_batch=MAX_BATCH,
        )

    def load(self, ref: str) -> Resident:
        self.loading.append(ref)
        assert self.may_load.wait(120)
        if ref in self.wrong:
            raise self.wrong[ref]
        self.loaded.append(GreyEngine())
        return self.resident(int(ref.removeprefix("grey/")), self.loaded[-1])

    def waiting(self) -> int:
        """Return how many pictures wait for the device."""
        return self.pipeline._assembly.waiting(self.residents.active)

    def submit(self, job_ids: Sequence[UUID], lane: Lane = Lane.BULK) -> Future[Summary]:
        return self.pipeline.submit(job_ids, lane)


def test_each_job_gets_the_answer_to_its_own_image(rig: Rig) -> None:
    wanted = {job_id: value for value in range(100) for job_id in rig.table.queue(1, str(value))}

    rig.submit(list(wanted)).result(60)

    got = {
        job_id: int(outcome.predictions.label.removeprefix("grey "))
        for job_id, outcome in rig.table.outcomes.items()
        if isinstance(outcome, Succeeded)
    }
    assert got == wanted


def test_a_lone_image_goes_straight_through(rig: Rig) -> None:
    rig.submit(rig.table.queue(1)).result(60)

    assert rig.engine.sizes == [1]


def test_batches_fill_while_the_device_is_busy(rig: Rig) -> None:
    rig.engine.may_go.clear()
    first = rig.submit(rig.table.queue(1))
    eventually(lambda: rig.engine.sizes == [1])
    rest = [rig.submit(rig.table.queue(1)) for _ in range(MAX_BATCH)]
    eventually(lambda: rig.waiting() == MAX_BATCH)

    rig.engine.may_go.set()
    for future in [first, *rest]:
        future.result(60)

    assert rig.engine.sizes == [1, MAX_BATCH]


def test_what_is_cheap_per_batch_is_not_done_per_image(rig: Rig) -> None:
    rig.submit(rig.table.queue(64)).result(60)

    assert rig.table.calls.count("claim") == 1
    assert rig.table.calls.count("commit") <= len(rig.engine.sizes)


@pytest.mark.parametrize(
    ("image", "kind", "code"),
    [
        ("corrupt", Failed, "image_corrupt"),
        ("lost", Errored, "image_lost"),
        ("bug", Errored, "failed"),
    ],
)
def test_one_bad_image_costs_one_job(rig: Rig, image: str, kind: type, code: str) -> None:
    good = rig.table.queue(20)
    [bad] = rig.table.queue(1, image)

    summary = rig.submit([*good[:10], bad, *good[10:]]).result(60)

    assert summary.claimed == 21
    outcome = rig.table.outcomes[bad]
    assert isinstance(outcome, kind)
    assert isinstance(outcome, Failed | Errored)
    assert outcome.code == code
    assert all(isinstance(rig.table.outcomes[job_id], Succeeded) for job_id in good)
    assert [report.failed for report in rig.reports if report.failed] == [{code: 1}]


def test_a_batch_that_the_model_fails_on_is_bisected_until_the_culprit_is_alone(rig: Rig) -> None:
    rig.engine.may_go.clear()
    first = rig.submit(rig.table.queue(1))
    eventually(lambda: rig.engine.sizes == [1])
    rig.engine.cannot = 13
    good = rig.table.queue(MAX_BATCH - 1)
    [culprit] = rig.table.queue(1, "13")
    batch = rig.submit([*good[:3], culprit, *good[3:]])
    eventually(lambda: rig.waiting() == MAX_BATCH)
    rig.engine.may_go.set()
    first.result(60)
    batch.result(60)

    outcome = rig.table.outcomes[culprit]
    assert isinstance(outcome, Errored)
    assert (outcome.code, outcome.is_retryable) == ("engine_failed", True)
    assert all(isinstance(rig.table.outcomes[job_id], Succeeded) for job_id in good)
    assert len(rig.engine.sizes) - 1 == 7  # 8, then the halves of 8, 4 and 2
    assert rig.engine.checks == 1


def test_a_device_that_fails_on_everything_ends_the_process_and_blames_no_image() -> None:
    rig = Rig()
    rig.pipeline.start()
    rig.engine.fails = True

    rig.submit(rig.table.queue(3))

    eventually(lambda: rig.fatal)
    assert "whatever the image" in str(rig.fatal[0])
    assert rig.table.outcomes == {}


def test_a_suspect_runs_alone_and_its_batch_mates_do_not_wait(rig: Rig) -> None:
    rig.isolation.may_go.clear()
    [suspect] = rig.table.queue(1, "5", crashes=1)
    [poison] = rig.table.queue(1, "poison", crashes=2)
    good = rig.table.queue(5)
    future = rig.submit([suspect, poison, *good])

    eventually(lambda: all(job_id in rig.table.outcomes for job_id in good))
    rig.isolation.may_go.set()
    future.result(60)

    assert isinstance(rig.table.outcomes[suspect], Succeeded)
    assert rig.table.outcomes[poison] == Crashed(rig.isolation.ran[1], "SIGSEGV")
    assert [claim.job_id for claim in rig.isolation.ran] == [suspect, poison]
    assert sum(rig.engine.sizes) == len(good)


def test_stopping_ends_the_child_and_gives_suspects_back_untouched(rig: Rig) -> None:
    rig.isolation.may_go.clear()
    suspects = rig.table.queue(3, "5", crashes=1)
    future = rig.submit(suspects)
    eventually(lambda: rig.isolation.ran)

    assert rig.pipeline.stop(60)

    assert future.result(60).given_back == 3
    assert sorted(rig.table.released) == sorted(suspects)
    assert rig.table.outcomes == {}


def test_ids_that_are_not_to_be_done_are_answered_at_once(rig: Rig) -> None:
    assert rig.submit([new_id(), new_id()]).result(60).claimed == 0
    assert rig.engine.sizes == []


def test_a_message_delivered_twice_is_done_once(rig: Rig) -> None:
    job_ids = rig.table.queue(10)

    futures = [rig.submit(job_ids) for _ in range(3)]

    assert sum(future.result(60).claimed for future in futures) == 10
    assert len(rig.table.outcomes) == 10


def test_a_full_pipeline_asks_for_no_more_until_there_is_room(rig: Rig) -> None:
    rig.engine.may_go.clear()
    future = rig.submit(rig.table.queue(rig.pipeline.capacity))
    assert not rig.pipeline.room(Lane.BULK)

    rig.engine.may_go.set()
    future.result(60)

    assert rig.room.wait(60)
    assert rig.pipeline.room(Lane.BULK)


def test_an_outage_of_the_database_loses_nothing(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("alexq_worker.pipeline.flow.RETRY_S", 0.01)
    rig.table.outages = 3
    rig.engine.may_go.clear()
    future = rig.submit(rig.table.queue(5))
    eventually(lambda: rig.engine.sizes)
    rig.table.outages = 3
    rig.engine.may_go.set()

    assert future.result(60).claimed == 5
    assert len(rig.table.outcomes) == 5


def test_a_claim_whose_answer_got_lost_is_made_again(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("alexq_worker.pipeline.flow.RETRY_S", 0.01)
    first, held = rig.table.queue(2), rig.table.queue(1)
    rig.engine.may_go.clear()
    running = rig.submit(held)
    eventually(lambda: rig.engine.sizes)
    asked: list[list[UUID]] = []
    claim = rig.table.claim

    def loses_its_first_answer(job_ids: Sequence[UUID]) -> list[Claim]:
        asked.append(list(job_ids))
        if len(asked) == 1:
            raise DatabaseUnavailableError("the connection broke after COMMIT")
        return claim(job_ids)

    rig.table.claim = loses_its_first_answer  # type: ignore[method-assign]
    again = rig.submit([*first, *held])
    eventually(lambda: len(asked) == 2)
    rig.engine.may_go.set()

    assert (again.result(60).claimed, running.result(60).claimed) == (2, 1)
    assert asked == [first, first]  # never for a job that it holds


def test_stopping_finishes_what_is_decoded_and_gives_back_the_rest(rig: Rig) -> None:
    rig.engine.may_go.clear()
    rig.decoder.may_go.set()
    running = rig.submit(rig.table.queue(1))
    eventually(lambda: rig.engine.sizes == [1])
    rig.decoder.may_go.clear()
    waiting_ids = rig.table.queue(20)
    waiting = rig.submit(waiting_ids)
    eventually(lambda: len(rig.decoder.begun) == 3, what="two are being decoded")
    eventually(lambda: rig.pipeline._items.qsize() == 18, what="the others wait for a decoder")

    rig.pipeline.drain()
    rig.decoder.may_go.set()
    rig.engine.may_go.set()

    assert running.result(60).given_back == 0
    summary = waiting.result(60)
    assert summary.given_back == 18
    assert sorted(rig.table.released) == sorted(set(waiting_ids) - set(rig.table.outcomes))
    assert rig.submit(rig.table.queue(2)).result(60).given_back == 2


def test_start_and_stop_may_be_called_twice() -> None:
    rig = Rig()
    assert rig.pipeline.stop(1)
    rig = Rig()
    rig.pipeline.start()
    rig.pipeline.start()
    assert rig.pipeline.stop(60)
    assert rig.pipeline.stop(60)


def test_a_stage_that_breaks_ends_the_process() -> None:
    rig = Rig()
    rig.table.commit = lambda outcomes: 1 / 0  # type: ignore[assignment,method-assign]
    rig.pipeline.start()

    rig.submit(rig.table.queue(1))

    eventually(lambda: rig.fatal)
    assert isinstance(rig.fatal[0], ZeroDivisionError)


def test_a_stall_is_time_without_progress_while_there_is_work(rig: Rig) -> None:
    assert rig.pipeline.stalled() == (0, "nothing")
    rig.engine.may_go.clear()
    future = rig.submit(rig.table.queue(1))

    eventually(lambda: rig.pipeline.stalled()[0] > 0.05)
    assert not rig.pipeline.is_idle

    rig.engine.may_go.set()
    future.result(60)
    assert eventually(lambda: rig.pipeline.stalled()[0] == 0)
    assert rig.pipeline.is_idle


def test_one_hung_decoder_is_a_stall_though_the_others_get_on(rig: Rig) -> None:
    rig.decoder.may_go.clear()
    [stuck] = rig.table.queue(1, "1")
    waiting = rig.submit([stuck])
    eventually(lambda: rig.decoder.begun == [b"1"], what="the decoder has it")
    rig.decoder.decode = lambda data: Grey(int(data))  # type: ignore[method-assign]
    for _ in range(3):
        rig.submit(rig.table.queue(2)).result(60)

    assert f"of job {stuck}" in rig.pipeline.stalled()[1]

    rig.decoder.may_go.set()
    waiting.result(60)


def test_an_outage_is_no_stall_but_a_full_disk_is(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("alexq_worker.pipeline.flow.RETRY_S", 0.01)
    for error, is_stall in ((DatabaseUnavailableError("down"), False), (DatabaseFullError("no space"), True)):
        is_down = threading.Event()
        is_down.set()
        calls: list[int] = []
        commit = rig.table.commit

        def fails(
            outcomes: Sequence[Outcome],
            error: Exception = error,
            is_down: threading.Event = is_down,
            calls: list[int] = calls,
            commit: Callable[[Sequence[Outcome]], Committed] = commit,
        ) -> Committed:
            calls.append(1)
            if is_down.is_set():
                raise error
            return commit(outcomes)

        rig.table.commit = fails  # type: ignore[method-assign]
        future = rig.submit(rig.table.queue(2))
        eventually(lambda calls=calls: len(calls) > 20)

        # A thread may be kept from the processor between two of its steps; that lasts no longer.
        eventually(lambda is_stall=is_stall: (rig.pipeline.stalled()[0] > 0.1) is is_stall)
        eventually(lambda is_stall=is_stall: ("no space" in rig.pipeline.stalled()[1]) is is_stall)
        is_down.clear()
        future.result(60)
        rig.table.commit = commit  # type: ignore[method-assign]


def hold_decoders(rig: Rig) -> threading.Semaphore:
    """Let decoders end as many images as are released."""
    may_end = threading.Semaphore(0)

    def decode(data: bytes) -> Grey:
        rig.decoder.begun.append(data)
        assert may_end.acquire(timeout=120)
        return Grey(int(data))

    rig.decoder.decode = decode  # type: ignore[method-assign,assignment]
    return may_end


def test_an_interactive_job_overtakes_every_bulk_job_that_waits_for_a_decoder(rig: Rig) -> None:
    one_at_a_time = hold_decoders(rig)  # two bulk jobs are with them
    bulk = rig.submit(rig.table.queue(2 * MAX_BATCH, "1"))
    eventually(lambda: rig.decoder.begun == [b"1"] * 2, what="the decoders are busy")
    single = rig.submit(rig.table.queue(1, "2"), Lane.INTERACTIVE)
    eventually(lambda: rig.pipeline._items.qsize() == 2 * MAX_BATCH - 1, what="the others wait for them")
    one_at_a_time.release()
    eventually(lambda: len(rig.decoder.begun) == 3, what="the next is begun")
    assert rig.decoder.begun[-1] == b"2"

    one_at_a_time.release(2 * MAX_BATCH)
    single.result(60)
    bulk.result(60)


def test_a_full_bulk_lane_leaves_room_for_interactive_messages(rig: Rig) -> None:
    rig.engine.may_go.clear()
    bulk = rig.submit(rig.table.queue(rig.pipeline.capacity))

    assert not rig.pipeline.room(Lane.BULK)
    assert rig.pipeline.room(Lane.INTERACTIVE)

    rig.engine.may_go.set()
    bulk.result(60)


def test_a_job_that_cannot_be_done_by_its_deadline_costs_no_decode(rig: Rig) -> None:
    late, in_time = rig.table.queue(1, "bug"), rig.table.queue(1, "3")  # decoding the first would show
    rig.table.left_s = {late[0]: 0.0, in_time[0]: 60.0}

    rig.submit([*late, *in_time]).result(60)

    assert isinstance(rig.table.outcomes[late[0]], Late)
    assert isinstance(rig.table.outcomes[in_time[0]], Succeeded)
    assert [report.failed for report in rig.reports if report.failed] == [{"deadline_passed": 1}]


def test_a_device_out_of_memory_gets_smaller_batches_and_no_job_is_charged(rig: Rig) -> None:
    rig.engine.memory = 3
    rig.engine.may_go.clear()
    first = rig.submit(rig.table.queue(1))
    eventually(lambda: rig.engine.sizes == [1], what="the device is busy")
    rest = rig.submit(rig.table.queue(2 * MAX_BATCH))
    eventually(lambda: rig.waiting() == MAX_BATCH, what="a batch is full")
    rig.engine.may_go.set()

    first.result(60)
    rest.result(60)

    assert all(isinstance(outcome, Succeeded) for outcome in rig.table.outcomes.values())
    assert rig.engine.sizes[:4] == [1, 8, 4, 2]  # halved until it fits
    assert max(rig.engine.sizes[4:]) <= 2  # and remembered
    assert rig.engine.checks == 0  # no image was suspected


def models_of(rig: Rig) -> list[int]:
    """Return which version made each result, in the order of their commits."""
    return [outcome.model_id for outcome in rig.table.outcomes.values() if isinstance(outcome, Succeeded)]


def test_a_switch_takes_effect_between_two_batches_and_closes_the_old_version(rig: Rig) -> None:
    rig.engine.may_go.clear()
    first = rig.submit(rig.table.queue(1))
    eventually(lambda: rig.engine.sizes == [1], what="the device has a batch of the old version")
    decoded = rig.submit(rig.table.queue(3))
    eventually(lambda: rig.waiting() == 3, what="three more are decoded for it")

    new = GreyEngine()
    rig.residents.switch(rig.resident(2, new))
    later = rig.submit(rig.table.queue(4))
    eventually(lambda: rig.waiting() == 4, what="those after the switch are decoded for the new one")
    assert not rig.engine.is_closed
    rig.engine.may_go.set()
    for future in (first, decoded, later):
        future.result(60)

    assert (rig.engine.sizes, new.sizes) == ([1, 3], [4])  # no batch has pictures of two versions
    assert models_of(rig) == [1] * 4 + [2] * 4
    assert rig.engine.is_closed
    assert not new.is_closed


def test_switching_again_and_again_under_load_mixes_and_loses_nothing(rig: Rig) -> None:
    engines = [rig.engine]
    futures = []
    wanted: dict[UUID, int] = {}
    for model_id in range(2, 40):
        for value in range(model_id % 5 + 1):
            wanted |= dict.fromkeys(rig.table.queue(1, str(value)), value)
        futures.append(rig.submit(list(wanted)[-(model_id % 5 + 1) :]))
        engines.append(GreyEngine())
        rig.residents.switch(rig.resident(model_id, engines[-1]))
    for future in futures:
        future.result(60)

    assert sum(sum(engine.sizes) for engine in engines) == len(wanted) == len(rig.table.outcomes)
    # The last batch of a version has been told of before the device's thread leaves it.
    eventually(lambda: all(engine.is_closed for engine in engines[:-1]), what="the old versions are closed")
    assert {
        job_id: outcome.predictions.label
        for job_id, outcome in rig.table.outcomes.items()
        if isinstance(outcome, Succeeded)
    } == {job_id: f"grey {value}" for job_id, value in wanted.items()}


def test_a_version_without_pictures_in_hand_is_closed_at_once(rig: Rig) -> None:
    rig.residents.switch(rig.resident(2, GreyEngine()))

    assert rig.engine.is_closed


def test_a_version_of_which_every_picture_was_refused_is_closed(rig: Rig) -> None:
    rig.decoder.may_go.clear()
    future = rig.submit(rig.table.queue(2, "corrupt"))
    eventually(lambda: rig.pipeline.stalled()[1].startswith("decoding"))
    rig.residents.switch(rig.resident(2, GreyEngine()))
    rig.decoder.may_go.set()
    future.result(60)

    eventually(lambda: rig.engine.is_closed)


def test_a_small_version_after_a_large_one_takes_its_own_batches(rig: Rig) -> None:
    small = GreyEngine()
    small.limit = 2
    rig.residents.switch(rig.resident(2, small))

    rig.submit(rig.table.queue(9)).result(60)

    assert max(small.sizes) <= 2


def test_a_suspect_is_run_with_the_version_that_is_active_by_then(rig: Rig) -> None:
    rig.residents.switch(rig.resident(2, GreyEngine()))

    rig.submit(rig.table.queue(1, "5", crashes=1)).result(60)

    assert models_of(rig) == [2]


def test_pinned_jobs_are_done_by_their_version_in_batches_of_their_own(rig: Rig) -> None:
    rig.engine.may_go.clear()
    first = rig.submit(rig.table.queue(1))
    eventually(lambda: rig.engine.sizes == [1], what="the device is busy")
    plain, pinned = rig.table.queue(3, "5"), rig.table.queue(4, "6", pinned="grey/2")
    futures = [first, rig.submit([*plain[:2], *pinned, *plain[2:]])]
    eventually(lambda: rig.loaded, what="the version is loaded")
    rig.engine.may_go.set()
    for future in futures:
        future.result(60)

    [second] = rig.loaded
    assert sum(second.sizes) == 4
    assert {
        (outcome.model_id, outcome.predictions.label)
        for job_id, outcome in rig.table.outcomes.items()
        if isinstance(outcome, Succeeded) and job_id in {*plain, *pinned}
    } == {(1, "grey 5"), (2, "grey 6")}


def test_a_pin_to_the_active_version_loads_nothing(rig: Rig) -> None:
    rig.submit(rig.table.queue(2, pinned="grey/1")).result(60)

    assert (models_of(rig), rig.loaded) == ([1, 1], [])


def test_others_go_on_while_a_pinned_version_is_loaded(rig: Rig) -> None:
    rig.may_load.clear()
    pinned = rig.submit(rig.table.queue(2, pinned="grey/2"))
    rig.submit(rig.table.queue(20)).result(60)

    assert not pinned.done()
    rig.may_load.set()
    pinned.result(60)


def test_the_version_asked_for_least_recently_goes_for_another(rig: Rig) -> None:
    for version in (2, 3, 2, 4):
        rig.submit(rig.table.queue(1, pinned=f"grey/{version}")).result(60)

    second, third, fourth = rig.loaded
    assert third.is_closed
    assert not second.is_closed
    assert not fourth.is_closed


def test_many_versions_at_once_are_all_done_though_few_fit(rig: Rig) -> None:
    wanted = {
        job_id: version for version in range(2, 9) for job_id in rig.table.queue(3, pinned=f"grey/{version}")
    }
    rig.submit(list(wanted)[::2] + list(wanted)[1::2]).result(60)

    got = {job_id: o.model_id for job_id, o in rig.table.outcomes.items() if isinstance(o, Succeeded)}
    assert got == wanted
    eventually(lambda: sum(not engine.is_closed for engine in rig.loaded) <= 2, what="the others are closed")


@pytest.mark.parametrize(
    ("error", "kind", "code"),
    [
        (ModelNotFoundError("no model grey/2"), Failed, "pinned_model_unknown"),
        (ModelInvalidError("tampered with"), Errored, "model_invalid"),
        (RuntimeError("a bug in a library"), Errored, "failed"),
    ],
)
def test_a_version_that_cannot_be_had_ends_its_jobs_and_no_others(
    rig: Rig, error: Exception, kind: type, code: str
) -> None:
    rig.wrong["grey/2"] = error
    bad, good = rig.table.queue(2, pinned="grey/2"), rig.table.queue(2)
    rig.submit([*bad, *good]).result(60)

    for job_id in bad:
        outcome = rig.table.outcomes[job_id]
        assert isinstance(outcome, kind)
        assert isinstance(outcome, Failed | Errored)
        assert outcome.code == code
        assert not getattr(outcome, "is_retryable", False)  # never a loop
    assert all(isinstance(rig.table.outcomes[job_id], Succeeded) for job_id in good)


def test_a_pinned_suspect_runs_alone_with_its_version(rig: Rig) -> None:
    rig.submit(rig.table.queue(1, "5", crashes=1, pinned="grey/2")).result(60)

    assert models_of(rig) == [2]
    assert len(rig.isolation.ran) == 1


def test_stopping_gives_pinned_jobs_back_that_wait_for_their_version(rig: Rig) -> None:
    rig.may_load.clear()
    first = rig.submit(rig.table.queue(2, pinned="grey/2"))
    second = rig.submit(rig.table.queue(2, pinned="grey/3"))
    eventually(lambda: {"grey/2", "grey/3"} & set(rig.loading), what="a version is being loaded")
    rig.pipeline.drain()
    rig.may_load.set()

    assert rig.pipeline.stop(60)
    summaries = [first.result(60), second.result(60)]
    assert sum(one.given_back for one in summaries) + len(rig.table.outcomes) == 4
    assert len(rig.loaded) <= 1


def told(outcome: Outcome) -> list[tuple[int, float]]:
    assert isinstance(outcome, Succeeded)
    return [(one["index"], one["probability"]) for one in json.loads(outcome.predictions.json)]


def with_options(rig: Rig, image: str, **options: Any) -> UUID:
    [job_id] = rig.table.queue(1, image)
    rig.table.options[job_id] = options
    return job_id


def test_a_batch_without_options_goes_through_the_model_as_ever(rig: Rig) -> None:
    rig.submit(rig.table.queue(20)).result(60)

    assert rig.engine.scored == []


def test_ten_crops_take_ten_places_beside_others_and_share_their_batch(rig: Rig) -> None:
    large = GreyEngine()
    large.limit = large.memory = 16
    large.new_batch = lambda: np.zeros((16, 2, 2, 3), np.uint8)  # type: ignore[method-assign]
    resident = rig.resident(2, large)
    resident.policy = BatchPolicy(16)
    rig.residents.switch(resident)
    large.may_go.clear()
    first = rig.submit(rig.table.queue(1))
    eventually(lambda: large.sizes == [1], what="the device is busy")
    plain = rig.table.queue(2, "7")
    ten = with_options(rig, "100", crops=10, top_k=3)
    rest = rig.submit([plain[0], ten, plain[1]])
    eventually(lambda: rig.waiting() == 3, what="all are decoded")
    large.may_go.set()
    first.result(60)
    rest.result(60)

    assert large.scored == [12]
    assert told(rig.table.outcomes[ten]) == [(100, 0.5), (101, 0.25), (102, 0.125)]
    assert [told(rig.table.outcomes[job_id]) for job_id in plain] == [[(7, 0.5)]] * 2


def test_ten_crops_go_through_a_device_whose_batches_are_smaller(rig: Rig) -> None:
    rig.engine.memory = 3
    jobs = [with_options(rig, str(value), crops=10) for value in (10, 20, 30)]
    rig.submit([*jobs, *rig.table.queue(5)]).result(60)

    assert [told(rig.table.outcomes[job_id])[0][0] for job_id in jobs] == [10, 20, 30]
    assert all(isinstance(outcome, Succeeded) for outcome in rig.table.outcomes.values())


def test_labels_that_are_less_likely_are_left_out_all_of_them_perhaps(rig: Rig) -> None:
    some = with_options(rig, "10", crops=10, top_k=10, min_probability=0.25)
    none = with_options(rig, "10", crops=10, min_probability=0.75)
    rig.submit([some, none]).result(60)

    assert told(rig.table.outcomes[some]) == [(10, 0.5), (11, 0.25)]
    assert told(rig.table.outcomes[none]) == []
    outcome = rig.table.outcomes[none]
    assert isinstance(outcome, Succeeded)
    assert outcome.predictions.label is None


def test_a_batch_with_options_that_the_model_fails_on_is_bisected_too(rig: Rig) -> None:
    rig.engine.cannot = 113
    bad = with_options(rig, "110", crops=10)
    good = [with_options(rig, "10", top_k=2), *rig.table.queue(3, "5"), with_options(rig, "50", crops=10)]
    rig.submit([*good[:2], bad, *good[2:]]).result(60)

    assert isinstance(rig.table.outcomes[bad], Errored)
    assert all(isinstance(rig.table.outcomes[job_id], Succeeded) for job_id in good)


def test_options_of_a_later_release_are_left_to_a_worker_of_it(rig: Rig) -> None:
    job_id = with_options(rig, "10", crops=10, what_nobody_knows=1)
    rig.submit([job_id]).result(60)

    outcome = rig.table.outcomes[job_id]
    assert isinstance(outcome, Errored)
    assert outcome.is_retryable
    assert "what_nobody_knows" in outcome.detail
