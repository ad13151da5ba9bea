"""Whether a worker gets on is judged by progress, reported, and acted upon."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

import pytest
from sqlalchemy import select

from alexq.stack.health import MAX_AGE_S, HealthFile
from alexq_schema.db import workers
from alexq_schema.db.session import Database
from alexq_schema.db.tables import Worker
from alexq_schema.db.workers import MemoryUse, Vitals
from alexq_schema.errors import DatabaseUnavailableError
from alexq_schema.ids import new_id
from alexq_schema.job import ModelRef
from alexq_worker.health import EXIT_UNHEALTHY, Health, Watch
from alexq_worker.lifecycle import Heartbeat


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


class Pipeline:
    def __init__(self) -> None:
        self.is_idle = True
        self.accepted = 0
        self.stall = (0.0, "nothing")

    def stalled(self) -> tuple[float, str]:
        return self.stall


class Queue:
    def __init__(self) -> None:
        self.length: int | Exception = 0

    def __call__(self) -> int:
        if isinstance(self.length, Exception):
            raise self.length
        return self.length


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def pipeline() -> Pipeline:
    return Pipeline()


@pytest.fixture
def queue() -> Queue:
    return Queue()


@pytest.fixture
def trouble(clock: Clock, pipeline: Pipeline, queue: Queue) -> Callable[[], str | None]:
    return Watch(pipeline, queue, 45.0, clock).trouble


def watched(trouble: Callable[[], str | None], clock: Clock, for_s: float) -> str | None:
    """Look every 2 s, as a worker does; return the last answer."""
    answer = trouble()
    end = clock.now_s + for_s
    while clock.now_s < end:
        clock.now_s += 2.0
        answer = trouble()
    return answer


def test_a_stalled_worker_is_unwell_and_says_what_hangs(
    trouble: Callable[[], str | None], pipeline: Pipeline
) -> None:
    pipeline.stall = (44.0, "the device with a batch of 12")
    assert trouble() is None

    pipeline.stall = (46.0, "the device with a batch of 12")
    assert trouble() == "no progress for 46 s: the device with a batch of 12"


def test_a_worker_that_was_stopped_as_a_whole_gets_its_time_anew(
    trouble: Callable[[], str | None], clock: Clock, pipeline: Pipeline
) -> None:
    pipeline.stall = (1.0, "the device with a batch of 12")
    assert trouble() is None

    clock.now_s += 600.0  # SIGSTOP, or a machine that was suspended
    pipeline.stall = (601.0, "the device with a batch of 12")
    assert watched(trouble, clock, 44) is None
    assert watched(trouble, clock, 4) is not None  # it really hangs


def test_an_idle_worker_that_takes_none_of_the_messages_is_deaf(
    trouble: Callable[[], str | None], clock: Clock, queue: Queue
) -> None:
    assert watched(trouble, clock, 100) is None  # nothing to be heard

    queue.length = 3
    assert watched(trouble, clock, 44) is None
    answer = watched(trouble, clock, 4)
    assert answer is not None
    assert "deaf" in answer


@pytest.mark.parametrize("excuse", ["busy", "took one", "queue was empty", "no broker"])
def test_a_worker_with_an_excuse_is_not_deaf(
    trouble: Callable[[], str | None], clock: Clock, pipeline: Pipeline, queue: Queue, excuse: str
) -> None:
    queue.length = 3
    assert watched(trouble, clock, 40) is None
    if excuse == "busy":
        pipeline.is_idle = False
    elif excuse == "took one":
        pipeline.accepted += 1
    else:
        queue.length = 0 if excuse == "queue was empty" else OSError("gone")
    trouble()
    pipeline.is_idle, queue.length = True, 3

    assert watched(trouble, clock, 40) is None


@pytest.fixture
def worker_id(database: Database) -> UUID:
    worker_id = new_id()
    with database.begin() as connection:
        model = ModelRef(name="m", version="1", precision="fp32", trained=True)
        model_id = workers.register_model(connection, model, "0" * 64)
        workers.register(connection, worker_id, host="h", pid=1, device="cpu", model_id=model_id)
    return worker_id


def test_an_unwell_worker_says_so_in_its_file_and_its_row_and_ends(
    database: Database, worker_id: UUID, tmp_path: Path
) -> None:
    ended: list[int] = []
    ills: list[str | None] = [None, "the device hangs"]
    file = tmp_path / "health" / "{pid}.json"
    health = Health(database, worker_id, file, lambda: ills.pop(0), ended.append)
    mine = tmp_path / "health" / f"{os.getpid()}.json"

    health.look()
    assert json.loads(mine.read_text()) == {
        "is_healthy": True,
        "worker_id": str(worker_id),
        "pid": os.getpid(),
    }
    assert ended == []
    health.look()

    assert ended == [EXIT_UNHEALTHY]
    told = json.loads(mine.read_text())
    assert (told["is_healthy"], told["reason"]) == (False, "the device hangs")
    with database.read() as connection:
        [row] = connection.execute(select(Worker.__table__)).all()
    assert row.unhealthy_at is not None
    assert row.unhealthy_reason == "the device hangs"
    health.leave()
    assert not mine.exists()


def test_an_unwell_worker_ends_even_if_it_can_tell_nobody(tmp_path: Path) -> None:
    ended: list[int] = []
    (tmp_path / "a file").touch()
    database = Database("postgresql://nobody@127.0.0.1:9/none")
    health = Health(database, new_id(), tmp_path / "a file" / "health.json", lambda: "ill", ended.append)

    health.look()

    assert ended == [EXIT_UNHEALTHY]


def test_a_health_file_that_does_not_change_is_a_hung_workers(tmp_path: Path, clock: Clock) -> None:
    health = HealthFile(tmp_path / "{pid}.json", clock)
    file = tmp_path / "7.json"
    file.touch()
    os.utime(file, (5, 5))  # old by the wall clock, which may have jumped: that alone proves nothing
    assert health.is_fresh(7)
    clock.now_s += MAX_AGE_S - 1
    assert health.is_fresh(7)
    os.utime(file, (6, 6))
    assert health.is_fresh(7)
    clock.now_s += MAX_AGE_S - 1
    assert health.is_fresh(7)
    clock.now_s += 2
    assert not health.is_fresh(7)

    assert health.is_fresh(8)  # its successor, which has written nothing yet
    clock.now_s += MAX_AGE_S + 1
    assert not health.is_fresh(8)


class Outage:
    """A database that is there or not."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.is_down = False
        self.on_call: Callable[[], None] = lambda: None

    def begin(self) -> object:
        self.on_call()
        if self.is_down:
            raise DatabaseUnavailableError("down")
        return self._database.begin()


def test_silence_is_judged_only_after_the_database_has_answered_for_a_while(
    database: Database, worker_id: UUID, clock: Clock
) -> None:
    outage = Outage(database)
    heartbeat = Heartbeat(
        outage,  # type: ignore[arg-type]
        worker_id,
        every_s=2.0,
        silent_after_s=10.0,
        vitals=lambda: Vitals(64, MemoryUse(used_bytes=3, total_bytes=2**40)),
        clock=clock,
    )

    def beat_for(seconds: float) -> None:
        end = clock.now_s + seconds
        while clock.now_s < end:
            clock.now_s += 2.0
            heartbeat.beat()

    assert not heartbeat.may_judge_silence
    heartbeat.beat()
    assert not heartbeat.may_judge_silence  # those who live may not have had time to renew
    beat_for(4)
    assert heartbeat.may_judge_silence

    outage.is_down = True
    with pytest.raises(DatabaseUnavailableError):
        heartbeat.beat()
    outage.is_down = False
    beat_for(8)
    assert not heartbeat.may_judge_silence
    beat_for(4)
    assert heartbeat.may_judge_silence

    clock.now_s += 60  # this process was stopped
    heartbeat.beat()
    assert not heartbeat.may_judge_silence
    beat_for(12)
    assert heartbeat.may_judge_silence

    def hangs() -> None:
        clock.now_s += 20
        assert not heartbeat.may_judge_silence, "not even before the beat has returned"

    outage.on_call = hangs  # every row became old meanwhile
    heartbeat.beat()
    outage.on_call = lambda: None
    assert not heartbeat.may_judge_silence


def test_a_heartbeat_does_not_call_a_worker_well_that_has_just_failed(
    database: Database, worker_id: UUID, tmp_path: Path
) -> None:
    file = tmp_path / "health.json"
    health = Health(database, worker_id, file, lambda: None, end=lambda _: None)

    health.fail("the device broke")
    health.look()

    assert json.loads(file.read_text())["is_healthy"] is False
