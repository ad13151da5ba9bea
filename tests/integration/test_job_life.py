"""A job's life beside the one way that succeeds: pauses, deadlines, crashes, the record, what may go."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest
import redis
from sqlalchemy import func, select

from alexq_schema.db import jobs, refusals, retention, sweeper, workers
from alexq_schema.db.clock import db_now
from alexq_schema.db.refusals import Refusal
from alexq_schema.db.session import Database
from alexq_schema.db.tables import JobEvent, RefusedMessage, Submission
from alexq_schema.job import JobState
from alexq_schema.settings import Settings
from alexq_schema.work import Crashed, Errored, Failed, Late
from alexq_worker.lifecycle import Notifier
from alexq_worker.metrics import Metrics
from alexq_worker.sweeper import Sweeper
from tests.helpers.system import SILENT_AFTER_S, System, success


@pytest.fixture
def system(database: Database) -> System:
    return System(database)


def test_a_job_rests_after_an_error_of_ours_and_is_published_when_it_is_due(system: System) -> None:
    system.pause_s = 60.0
    [claim] = system.claim(system.queue(1))
    assert claim.errors == 0

    system.commit([Errored(claim, "engine_failed", "out of order")])

    assert system.claim([claim.job_id]) == []  # a message that was delivered twice does not hurry it
    assert system.take_unpublished() == []
    system.change([claim.job_id], retry_at=db_now(-1))
    assert system.take_unpublished() == [claim.job_id]
    [again] = system.claim([claim.job_id])
    assert (again.errors, again.crashes, again.attempt) == (1, 0, 2)


def test_an_error_that_no_retry_mends_makes_a_job_dead_at_once(system: System) -> None:
    [claim] = system.claim(system.queue(1))

    system.commit([Errored(claim, "failed", "a bug", is_retryable=False)])

    job = system.get(claim.job_id)
    assert (job.state, job.errors, job.attempt) == (JobState.DEAD, 1, 1)
    assert job.worker == "h:1"
    assert job.image_key == "a" * 64


def test_crashes_of_a_child_and_of_a_worker_count_alike_and_apart_from_errors(system: System) -> None:
    job_ids = system.queue(1)
    worker = system.join()
    system.claim(job_ids, worker)
    system.silence(worker)
    system.return_silent()
    [claim] = system.claim(job_ids)
    assert (claim.crashes, claim.errors) == (1, 0)
    system.commit([Errored(claim, "engine_failed", "could not start the child")])
    for state in (JobState.QUEUED, JobState.DEAD):
        [claim] = system.claim(job_ids)
        system.commit([Crashed(claim, "the process died of SIGSEGV")])
        assert system.get(job_ids[0]).state is state

    job = system.get(job_ids[0])
    assert (job.crashes, job.errors, job.attempt) == (3, 1, 4)
    assert job.error is not None
    assert (job.error.code, job.error.detail) == ("worker_crashed", "the process died of SIGSEGV")
    assert [(event.kind, event.attempt, event.code) for event in system.events(job_ids[0])] == [
        ("crashed", 1, "worker_crashed"),
        ("errored", 2, "engine_failed"),
        ("crashed", 3, "worker_crashed"),
        ("crashed", 4, "worker_crashed"),
    ]


def test_what_the_fence_refuses_is_not_recorded_either(system: System) -> None:
    [late] = system.claim(system.queue(1))
    system.silence(system.worker)
    system.return_silent()
    [claim] = system.claim([late.job_id], system.other)

    assert system.commit([Errored(late, "engine_failed", "late")]) == 0
    assert system.commit([Crashed(late, "late")]) == 0

    assert [event.kind for event in system.events(claim.job_id)] == ["crashed"]  # of the silent worker
    assert system.commit([success(claim)], system.other) == 1


def test_a_worker_that_says_it_is_unwell_loses_its_jobs_at_once(system: System) -> None:
    job_ids = system.queue(2)
    system.claim(job_ids)
    with system.database.begin() as connection:
        workers.fall_ill(connection, system.worker, "no progress for 46 s: the device " + "x" * 300)

    assert sorted(job.job_id for job in system.return_silent()) == job_ids
    with system.database.read() as connection:
        assert [row.id for row in workers.alive(connection, 60)] == [system.other]


def test_a_job_that_no_worker_began_before_its_deadline_expires(system: System) -> None:
    late, running, patient = (system.queue(1, deadline_s=60), system.queue(1, deadline_s=60), system.queue(1))
    [claim] = system.claim(running)
    system.change([*late, *running], expires_at=db_now(-0.1))

    assert system.claim(late) == []
    with system.database.begin() as connection:
        expired = jobs.expire(connection, limit=10)

    assert [(job.job_id, job.state) for job in expired] == [(late[0], JobState.EXPIRED)]
    job = system.get(late[0])
    assert job.error is not None
    assert job.error.code == "deadline_passed"
    assert system.commit([success(claim)]) == 1  # begun in time: its result counts
    assert system.states(patient) == ["queued"]


@pytest.mark.parametrize("chosen", ["ids", "error", "submission", "all"])
def test_dead_jobs_are_redriven_by_name_by_filter_or_all_once_and_on_record(
    system: System, chosen: str
) -> None:
    mine, other, alive = system.queue(2), system.queue(1), system.queue(1)
    for job_ids, code in ((mine, "image_lost"), (other, "failed")):
        system.commit([Errored(c, code, "why", is_retryable=False) for c in system.claim(job_ids)])
    submission_id = system.get(mine[0]).submission_id
    filters = {"error": {"error_code": "image_lost"}, "submission": {"submission_id": submission_id}}
    expected = mine + other if chosen == "all" else mine

    redriven = system.redrive([*mine, *alive] if chosen == "ids" else None, **filters.get(chosen, {}))

    assert sorted(redriven) == sorted(expected)
    assert system.redrive(expected) == []
    assert set(system.states(expected)) == {"queued"}
    for job_id in expected:
        job = system.get(job_id)
        assert (job.errors, job.crashes, job.error) == (0, 0, None)
        event = system.events(job_id)[-1]
        assert (event.kind, event.actor, event.detail) == ("redriven", "a test", "why")
    assert sorted(system.take_unpublished()) == sorted(expected)


def test_nothing_is_lost_when_redis_forgets_and_nothing_comes_twice_when_it_does_not(system: System) -> None:
    def begin(epoch: str, *, is_first: bool) -> None:
        with system.database.begin() as connection:
            sweeper.begin_queue_epoch(connection, epoch, is_first=is_first)

    before = system.queue(3)
    with system.database.read() as connection:
        assert sweeper.queue_epoch(connection) is None
    begin("first", is_first=True)
    assert system.take_unpublished() == []  # a backlog from before the first worker is healthy
    begin("second", is_first=False)
    after = system.queue(2)

    assert system.take_unpublished() == before
    assert system.take_unpublished() == []
    assert system.states(after) == ["queued"] * 2
    with system.database.read() as connection:
        assert sweeper.queue_epoch(connection) == "second"


def test_one_sweeps_at_a_time_and_a_dead_sweeper_is_replaced(system: System) -> None:
    def hold(worker: UUID, for_s: float = 300.0) -> bool:
        with system.database.begin() as connection:
            return sweeper.hold(connection, worker, for_s=for_s)

    assert hold(system.worker)
    assert not hold(system.other)
    assert hold(system.worker)  # its own lease is no obstacle
    with system.database.begin() as connection:
        sweeper.let_go(connection, system.other)  # not its to give
    assert not hold(system.other)
    with system.database.begin() as connection:
        sweeper.let_go(connection, system.worker)
    assert hold(system.other, for_s=-1)  # it died, and its lease ran out
    assert hold(system.worker)


def test_old_jobs_go_with_their_record_and_live_ones_stay(system: System) -> None:
    done, dead, live, young = (system.queue(2) for _ in range(4))
    system.commit([success(claim) for claim in system.claim([*done, *young])])
    system.commit([Errored(c, "failed", "why", is_retryable=False) for c in system.claim(dead)])
    system.change(young, finished_at=db_now(100))
    with system.database.begin() as connection:
        refusals.add(connection, [Refusal("no.task", "7", "message_invalid", "unknown")])

    with system.database.begin() as connection:  # in 50 s
        assert retention.delete_old(connection, older_than_s=-50, limit=3) == 3
        assert retention.delete_old(connection, older_than_s=-50, limit=3) == 1

    with system.database.read() as connection:
        assert connection.execute(select(func.count()).select_from(JobEvent)).scalar() == 0
        assert connection.execute(select(func.count()).select_from(RefusedMessage)).scalar() == 0
        assert connection.execute(select(func.count()).select_from(Submission)).scalar() == 2
    assert system.states([*done, *dead, *live, *young]) == ["queued"] * 2 + ["succeeded"] * 2


def test_an_image_is_needed_by_live_and_dead_jobs_and_for_a_while_by_ended_ones(system: System) -> None:
    keys = {
        name: character * 64 for name, character in zip(("old", "new", "dead", "both"), "0123", strict=True)
    }
    old, new, dead, both = (system.queue(1, image=key) for key in keys.values())
    waiting = system.queue(1, image=keys["both"])
    ended = system.claim([*old, *new, *both])
    system.commit([Failed(claim, "image_corrupt", "broken") for claim in ended])
    system.commit([Errored(c, "failed", "why", is_retryable=False) for c in system.claim(dead)])
    system.change([*old, *dead, *both], finished_at=db_now(-100))

    def needed(keep_s: float | None) -> set[str]:
        with system.database.read() as connection:
            return retention.needed_images(connection, [*keys.values(), "f" * 64], keep_s=keep_s)

    assert needed(50) == {keys["new"], keys["dead"], keys["both"]}
    assert needed(None) == set(keys.values())
    system.change(waiting, state=JobState.CANCELLED, finished_at=db_now(-100))
    assert needed(50) == {keys["new"], keys["dead"]}


class Judge:
    """A heartbeat that may judge silence, then finds out that the database has hung meanwhile."""

    def __init__(self, *answers: bool) -> None:
        self._answers = list(answers)

    @property
    def may_judge_silence(self) -> bool:
        return self._answers.pop(0)


@pytest.mark.parametrize(
    ("answers", "left"), [((False,), "running"), ((True, False), "running"), ((True, True), "queued")]
)
def test_nothing_is_taken_back_on_a_silence_that_proves_nothing(
    system: System, settings: Settings, answers: tuple[bool, ...], left: str
) -> None:
    job_ids = system.queue(2)
    system.claim(job_ids)
    system.silence(system.worker)
    nobody: Any = None
    metrics = Metrics()
    swept = Sweeper(
        settings.model_copy(update={"silent_after_s": SILENT_AFTER_S}),
        system.other,
        database=system.database,
        images=nobody,
        client=nobody,
        app=nobody,
        notifier=Notifier(redis.Redis()),
        metrics=metrics,
        heartbeat=Judge(*answers),  # type: ignore[arg-type]
    )

    swept._return_silent()

    assert system.states(job_ids) == [left] * 2
    assert len(system.events(job_ids[0])) == (left == "queued")
    reclaimed = metrics.registry.get_sample_value("alexq_worker_swept_jobs_total", {"action": "reclaimed"})
    assert reclaimed == (2 if left == "queued" else 0)


def test_a_claim_knows_how_long_there_is_and_a_job_that_cannot_make_it_expires(system: System) -> None:
    hurried, patient = system.queue(1, deadline_s=600), system.queue(1)
    late, other = system.claim([*hurried, *patient])
    assert late.left_s == pytest.approx(600, abs=60)
    assert other.left_s is None

    assert system.commit([Late(late)]) == 1

    job = system.get(late.job_id)
    assert (str(job.state), job.error and job.error.code, job.attempt) == ("expired", "deadline_passed", 1)
    assert system.commit([success(late)]) == 0  # and stays so
