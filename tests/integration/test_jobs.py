"""The job state machine, on SQLite and PostgreSQL: every transition, and those that must not be."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import event, select

from alexq_schema.db import accept, jobs, publishing, queries
from alexq_schema.db.accept import NewJob, NewSubmission
from alexq_schema.db.clock import db_now, now
from alexq_schema.db.session import Database
from alexq_schema.db.tables import Job
from alexq_schema.ids import new_id
from alexq_schema.job import JobState
from alexq_schema.names import Lane, QueueLane, lanes_of
from alexq_schema.work import Claim, Crashed, Errored, Failed, Late, Outcome
from tests.helpers.system import MODEL, System, success


@pytest.fixture
def system(database: Database) -> System:
    return System(database)


def test_a_job_lives_from_queued_to_succeeded(system: System) -> None:
    [job_id] = system.queue(1)
    [claim] = system.claim([job_id])
    assert system.get(job_id).state is JobState.RUNNING

    assert system.commit([success(claim)]) == 1

    job = system.get(job_id)
    assert job.state is JobState.SUCCEEDED
    assert (job.label, job.probability, job.attempt, job.model) == ("tabby", 0.5, 1, MODEL)
    assert job.timings.total_s is not None
    assert job.timings.total_s >= 0


def test_claims_come_in_the_order_submitted(system: System) -> None:
    job_ids = system.queue(50)

    assert [claim.job_id for claim in system.claim(list(reversed(job_ids)))] == job_ids


def test_a_claim_says_what_the_row_says(system: System) -> None:
    job_ids = system.queue(3, deadline_s=600)
    system.change(job_ids, created_at=db_now(-100), errors=1, crashes=2, attempt=4, image_bytes=5)
    claim = system.claim(job_ids)[2]

    with system.database.read() as connection:
        row = connection.execute(select(*Job.__table__.columns).where(Job.id == job_ids[2])).one()
    assert (claim.job_id, claim.submission_id, claim.position) == (row.id, row.submission_id, 2)
    assert (claim.task, claim.source, claim.image_key) == (row.task, "2.jpg", row.image_key)
    assert (claim.attempt, claim.errors, claim.crashes, claim.image_bytes) == (5, 1, 2, 5)
    assert (claim.pinned, claim.options, claim.traceparent) == (None, None, None)
    assert claim.waited_s == pytest.approx((row.claimed_at - row.created_at).total_seconds(), abs=0.002)
    assert claim.left_s == pytest.approx((row.expires_at - row.claimed_at).total_seconds(), abs=0.002)
    assert claim.waited_s > 99


def test_a_job_is_claimed_once_however_many_ask(system: System) -> None:
    job_ids = system.queue(200)
    claimed: list[UUID] = []
    start = threading.Barrier(4)

    def ask(worker: UUID) -> None:
        start.wait(150)
        for first in range(0, 200, 20):
            claimed.extend(claim.job_id for claim in system.claim(job_ids[first : first + 20], worker))

    threads = [
        threading.Thread(target=ask, args=(w,))
        for w in (system.worker, system.other, system.join(), system.join())
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    assert len(claimed) == len(set(claimed))
    left = [claim.job_id for claim in system.claim(job_ids, system.join())]
    assert sorted(claimed + left) == sorted(job_ids)  # PostgreSQL may have skipped a row that was locked


def test_a_claim_whose_answer_got_lost_can_be_repeated(system: System) -> None:
    job_ids = system.queue(3)
    system.claim(job_ids)

    again = system.claim(job_ids)

    assert [claim.job_id for claim in again] == job_ids
    assert system.claim(job_ids, system.other) == []
    assert system.commit([*map(success, again)]) == 3


def test_writers_of_the_same_rows_do_not_deadlock(system: System) -> None:
    for _ in range(5):
        job_ids = system.queue(400)
        claims = system.claim(job_ids)
        outcomes = [
            success(claim) if number % 2 else Failed(claim, "code", "why")
            for number, claim in enumerate(reversed(claims))
        ]
        errors: list[Exception] = []

        def act(action: Callable[[], object], errors: list[Exception] = errors) -> None:
            try:
                action()
            except Exception as error:
                errors.append(error)

        def cancel(job_ids: list[UUID] = job_ids) -> None:
            with system.database.begin() as connection:
                jobs.cancel(connection, job_ids, actor="me")

        threads = [
            threading.Thread(target=act, args=(action,))
            for action in (lambda outcomes=outcomes: system.commit(outcomes), cancel, system.return_silent)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert errors == []


def test_a_late_worker_cannot_overwrite_a_result(system: System) -> None:
    [job_id] = system.queue(1)
    [late] = system.claim([job_id])
    system.silence(system.worker)
    system.return_silent()
    [claim] = system.claim([job_id], system.other)

    assert system.commit([success(late, "late")]) == 0
    assert system.commit([success(claim, "right")], system.other) == 1
    assert system.commit([success(late, "late")]) == 0

    assert system.get(job_id).label == "right"


def test_a_worker_cannot_commit_an_attempt_that_it_has_lost(system: System) -> None:
    [job_id] = system.queue(1)
    [lost] = system.claim([job_id])
    system.silence(system.worker)
    system.return_silent()
    [again] = system.claim([job_id])  # by the same worker, which has woken up

    assert system.commit([success(lost, "late")]) == 0
    assert system.commit([success(again, "right")]) == 1
    assert system.get(job_id).label == "right"


def test_a_result_is_written_once(system: System) -> None:
    [claim] = system.claim(system.queue(1))

    assert [system.commit([success(claim, label)]) for label in ("first", "second")] == [1, 0]
    assert system.get(claim.job_id).label == "first"


def test_an_error_is_kept_as_it_was_told(system: System) -> None:
    told = "C:\\photos\\'a' said \"no\"\n\t$.detail {\u2028} é \N{FOX FACE} null"
    failed, errored = system.claim(system.queue(2))

    system.commit([Failed(failed, "code", told), Errored(errored, "code", told)])

    for claim in (failed, errored):
        error = system.get(claim.job_id).error
        assert error is not None
        assert error.detail == told


def test_an_input_at_fault_fails_and_is_not_tried_again(system: System) -> None:
    [claim] = system.claim(system.queue(1))

    system.commit([Failed(claim, "image_truncated", "ends after 12 bytes\0")])

    job = system.get(claim.job_id)
    assert job.state is JobState.FAILED
    assert job.error is not None
    assert job.error.code == "image_truncated"
    assert system.claim([claim.job_id]) == []


def test_an_error_of_ours_is_tried_again_until_the_attempts_are_used_up(system: System) -> None:
    job_ids = system.queue(1)
    for state in (JobState.QUEUED, JobState.DEAD):
        [claim] = system.claim(job_ids)
        system.commit([Errored(claim, "engine_failed", "out of order")])
        assert system.get(job_ids[0]).state is state

    assert system.redrive() == job_ids
    assert system.redrive() == []
    assert system.get(job_ids[0]).state is JobState.QUEUED


def test_a_released_job_has_used_up_no_attempt(system: System) -> None:
    [claim] = system.claim(system.queue(1))

    with system.database.begin() as connection:
        assert jobs.release(connection, [claim], worker_id=system.worker) == 1

    [again] = system.claim([claim.job_id], system.other)
    assert again.attempt == 1
    assert system.commit([success(claim)]) == 0  # the same attempt number, but not this worker's


def test_a_silent_workers_jobs_return_and_a_healthy_workers_stay(system: System) -> None:
    silent, healthy = system.queue(3), system.queue(3)
    system.claim(silent)
    system.claim(healthy, system.other)
    system.silence(system.worker)

    assert sorted(job.job_id for job in system.return_silent()) == sorted(silent)

    assert system.states(silent) == ["queued"] * 3
    assert system.states(healthy) == ["running"] * 3


def test_a_workers_death_makes_suspects_and_is_charged_to_none_of_them_again(system: System) -> None:
    job_ids = system.queue(1)
    for _ in range(5):
        worker = system.join()
        [claim] = system.claim(job_ids, worker)
        system.silence(worker)
        assert [job.state for job in system.return_silent()] == [JobState.QUEUED]
    assert (system.get(job_ids[0]).crashes, claim.crashes) == (1, 1)


def test_three_crashes_make_a_job_dead(system: System) -> None:
    job_ids = system.queue(1)
    system.claim(job_ids)
    system.silence(system.worker)
    system.return_silent()
    for state in (JobState.QUEUED, JobState.DEAD):
        [claim] = system.claim(job_ids, system.other)
        system.commit([Crashed(claim, "SIGSEGV")], system.other)
        assert system.get(job_ids[0]).state is state

    job = system.get(job_ids[0])
    assert job.error is not None
    assert job.error.code == "worker_crashed"


def test_a_job_that_takes_every_worker_down_with_its_child_is_dead_in_the_end(system: System) -> None:
    job_ids = system.queue(1)
    deaths = 0
    while system.get(job_ids[0]).state is not JobState.DEAD:
        worker = system.join()
        system.claim(job_ids, worker)
        system.silence(worker)
        system.return_silent()
        deaths += 1

    assert deaths == jobs.SUSPECT_ATTEMPTS + 1
    assert system.get(job_ids[0]).crashes == 3


def test_a_cancelled_job_is_not_claimed_and_a_running_ones_result_is_discarded(system: System) -> None:
    queued, running = system.queue(1), system.queue(1)
    [claim] = system.claim(running)
    with system.database.begin() as connection:
        cancelled = jobs.cancel(connection, queued + running, actor="me")
    assert sorted(job_id for _, job_id in cancelled) == sorted(queued + running)

    assert system.claim(queued) == []
    assert system.commit([success(claim)]) == 0
    assert system.states(queued + running) == ["cancelled"] * 2
    assert [(event.kind, event.actor) for event in system.events(queued[0])] == [("cancelled", "me")]


def test_only_rows_without_a_message_are_published_again(system: System) -> None:
    job_ids = system.queue(5)

    def take(**how: Any) -> list[UUID]:
        return system.take_unpublished(limit=3, **how)

    assert take() == []
    with system.database.begin() as connection:
        publishing.mark_unpublished(connection, job_ids[:4])
    assert take() == job_ids[:3]
    assert take() == job_ids[3:4]
    assert take() == []
    assert take(emptied=lanes_of(""), lost_after_s=60) == []
    assert (
        take(emptied=[QueueLane("", Lane.INTERACTIVE)], lost_after_s=-1) == []
    )  # the other lane's queue says nothing
    taken = take(emptied=[QueueLane("", Lane.BULK)], lost_after_s=-1)
    assert len(taken) == 3
    assert job_ids[4] in taken  # the oldest message first: the others were published again


def test_a_job_overtaken_by_later_ones_has_lost_its_message(system: System) -> None:
    lost, slow, running, backlog = (system.queue(2) for _ in range(4))
    passing = system.queue(2, lane=Lane.INTERACTIVE)  # overtakes every bulk job, as it should
    ages = ((lost, 100.0), (slow, 85.0), (running, 60.0), (backlog, 50.0), (passing, 0.0))
    with system.database.read() as connection:
        at = now(connection)
    for job_ids, age_s in ages:
        system.change(job_ids, published_at=at - timedelta(seconds=age_s))
    system.claim([*running, *passing])
    door = NewJob(new_id(), "door.jpg", "b" * 64, 3)  # published now, whenever its message was sent
    with system.database.begin() as connection:
        accept.add_if_absent(connection, [door])
    system.claim([door.job_id])

    assert system.take_unpublished() == lost  # and never the healthy backlog


def test_a_job_that_came_twice_is_one_row(system: System) -> None:
    job = NewJob(new_id(), "twice.jpg", "b" * 64, 3)
    for _ in range(2):
        with system.database.begin() as connection:
            accept.add_if_absent(connection, [job])

    assert system.states([job.job_id]) == ["queued"]


@pytest.mark.parametrize("source", ["a\0b.jpg", "caf\udce9.jpg", "x" * 2_000])
def test_any_file_name_can_be_stored(system: System, source: str) -> None:
    job = NewJob(new_id(), source, "b" * 64, 3)
    with system.database.begin() as connection:
        accept.add(connection, [NewSubmission(new_id(), [job], Lane.BULK)])

    assert system.get(job.job_id).source[:1] == source[:1]


def test_statements_do_not_grow_with_the_batch(system: System) -> None:
    counts = [
        statements(
            system.database,
            lambda size=size: system.commit([*map(success, system.claim(system.queue(size)))]),
        )
        for size in (2, 200)
    ]

    assert counts[0] == counts[1] == 4 + locks(system)  # submission, jobs, claim, commit


def test_statements_do_not_grow_with_a_batch_of_every_outcome(system: System) -> None:
    def commit(size: int) -> None:
        kinds: list[Callable[[Claim], Outcome]] = [
            success,
            Late,
            lambda claim: Failed(claim, "code", "why"),
            lambda claim: Errored(claim, "code", "why"),
            lambda claim: Crashed(claim, "why"),
        ]
        claims = system.claim(system.queue(size * len(kinds)))
        outcomes = [kinds[number % len(kinds)](claim) for number, claim in enumerate(claims)]
        assert system.commit(outcomes) == len(claims)

    counts = [statements(system.database, lambda size=size: commit(size)) for size in (1, 40)]

    assert counts[0] == counts[1] == 3 + locks(system) + 5 + 2  # claimed; each kind; two of them on record


def locks(system: System) -> int:
    """Return how many statements of a commit lock: SQLite has one writer at a time."""
    return int(system.database.engine.dialect.name == "postgresql")


def statements(database: Database, action: Callable[[], object]) -> int:
    seen: list[str] = []

    def note(_conn: object, _cursor: object, statement: str, *_: object) -> None:
        if not statement.startswith("BEGIN"):
            seen.append(statement)

    event.listen(database.engine, "before_cursor_execute", note)
    try:
        action()
    finally:
        event.remove(database.engine, "before_cursor_execute", note)
    return len(seen)


def test_lists_are_newest_first_and_filtered(system: System) -> None:
    job_ids = system.queue(4)
    system.commit([success(claim, "tabby") for claim in system.claim(job_ids[:2])])

    with system.database.read() as connection:
        every = [job.job_id for job in queries.newest(connection)]
        tabby = [job.job_id for job in queries.newest(connection, label="tabby", limit=1)]
        queued = [job.job_id for job in queries.newest(connection, state=JobState.QUEUED)]
        counts = queries.counts(connection)

    assert every == sorted(job_ids, reverse=True)
    assert tabby == [job_ids[1]]
    assert sorted(queued) == job_ids[2:]
    assert counts == {JobState.SUCCEEDED: 2, JobState.QUEUED: 2}


def test_the_databases_clock_counts_in_utc(system: System) -> None:
    with system.database.read() as connection:
        earlier = connection.execute(select(db_now(-60.5))).scalar_one()
        this_time = now(connection)

    assert 60 <= (this_time - earlier).total_seconds() < 600  # zones differ by a quarter of an hour
    assert this_time.utcoffset() is not None
