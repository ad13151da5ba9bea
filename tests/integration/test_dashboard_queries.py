"""What the dashboard reads, against the rows themselves, on both databases."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import Row, insert, select, text, update

from alexq_schema.db import dashboard, jobs, minutes, search, tallies
from alexq_schema.db.bounded import read_within
from alexq_schema.db.clock import db_now
from alexq_schema.db.search import JobSearch
from alexq_schema.db.session import Database
from alexq_schema.db.tables import Job, JobEvent, Submission, Worker
from alexq_schema.errors import DatabaseUnavailableError
from alexq_schema.images import open_image_store
from alexq_schema.job import JobState
from tests.helpers.seeded import Seeded, seed
from tests.helpers.system import SILENT_AFTER_S, System


@pytest.fixture
def seeded(database: Database, tmp_path: Path) -> Seeded:
    images = open_image_store((tmp_path / "images").as_uri())
    return seed(database, images, succeeded=400, failed=30, dead=8, waiting=40)


def rows(database: Database) -> Sequence[Row[Any]]:
    statement = select(Job.__table__, Submission.tenant).outerjoin(Submission).order_by(Job.id.desc())
    with database.read() as connection:
        return connection.execute(statement).all()


def found(database: Database, wanted: JobSearch, *, limit: int = 50, look_at: int = 10_000) -> list[UUID]:
    """Return what all pages of a search show."""
    ids: list[UUID] = []
    after: UUID | None = None
    with database.read() as connection:
        while True:
            page = search.page(connection, wanted, after=after, limit=limit, look_at=look_at)
            assert len(page.job_ids) <= limit
            ids += page.job_ids
            if page.next_after is None:
                return ids
            after = page.next_after


@pytest.mark.parametrize("look_at", [10_000, 7], ids=["at once", "a few rows at a time"])
def test_a_search_finds_what_matches_newest_first_whatever_a_page_may_look_at(
    database: Database, seeded: Seeded, look_at: int
) -> None:
    every = rows(database)
    middle = every[200].created_at
    submission = every[100].submission_id
    with database.begin() as connection:  # one of its jobs is in a worker's hands
        held = update(Job).where(Job.id == seeded.job_ids["queued"][3])
        connection.execute(
            held.values(state="running", worker_id=select(Worker.id).limit(1).scalar_subquery())
        )
    every = rows(database)
    for wanted, matches in (
        (JobSearch(), lambda row: True),
        (JobSearch(state=JobState.FAILED), lambda row: row.state == "failed"),
        (JobSearch(state=JobState.QUEUED), lambda row: row.state == "queued"),
        (JobSearch(state=JobState.RUNNING), lambda row: row.state == "running"),
        (JobSearch(state=JobState.RUNNING, tenant="nobody"), lambda row: False),
        (JobSearch(label="tabby"), lambda row: row.label == "tabby"),
        (JobSearch(label="tabby", state=JobState.FAILED), lambda row: False),
        (JobSearch(label="' OR 1=1 --"), lambda row: False),
        (JobSearch(model=("alexnet", "imagenet1k_v1")), lambda row: row.model_id is not None),
        (JobSearch(model=("alexnet", "other")), lambda row: False),
        (JobSearch(submission_id=submission), lambda row: row.submission_id == submission),
        (
            JobSearch(submission_id=submission, label="tabby"),
            lambda row: row.submission_id == submission and row.label == "tabby",
        ),
        (JobSearch(tenant="shop"), lambda row: row.tenant == "shop"),
        (JobSearch(created_after=middle), lambda row: row.created_at >= middle),
        (JobSearch(created_before=middle), lambda row: row.created_at < middle),
        (JobSearch(min_probability=0.9), lambda row: (row.probability or 0) >= 0.9),
        (
            JobSearch(min_probability=0.9, tenant="shop", state=JobState.SUCCEEDED),
            lambda row: (row.probability or 0) >= 0.9 and row.tenant == "shop",
        ),
    ):
        expected = [row.id for row in every if matches(row)]
        assert found(database, wanted, look_at=look_at) == expected, wanted


def test_a_page_that_stopped_looking_says_so(database: Database, seeded: Seeded) -> None:
    with database.read() as connection:
        page = search.page(connection, JobSearch(tenant="nobody"), after=None, limit=50, look_at=100)
        last = search.page(connection, JobSearch(tenant="nobody"), after=None, limit=50)
    assert (page.job_ids, page.is_cut_short) == ([], True)
    assert page.next_after == rows(database)[99].id
    assert (last.job_ids, last.next_after, last.is_cut_short) == ([], None, False)


def test_minutes_count_every_job_once_when_it_came_in_and_when_it_ended(
    database: Database, seeded: Seeded
) -> None:
    every = rows(database)
    with database.read() as connection:
        now = minutes.this_minute(connection)
        first = minutes.oldest(connection)
        assert first is not None
        came_in = minutes.came_in(connection, first, now + 1)
        ended = minutes.ended(connection, first, now + 1)
    assert came_in == Counter(minutes.minute_of_id(row.id) for row in every)
    assert sum(came_in.values()) == 478
    in_minutes = {
        minute: Counter(
            JobState(row.state)
            for row in every
            if row.finished_at is not None and minutes.minute_at(row.finished_at) == minute
        )
        for minute in ended
    }
    assert {minute: dict(one.states) for minute, one in ended.items()} == in_minutes
    assert sum(one.batches for one in ended.values()) == pytest.approx(
        sum(1 / row.batch_size for row in every if row.batch_size)
    )
    assert sum(one.images for one in ended.values()) == sum(row.batch_size is not None for row in every)
    assert all(one.unnumbered == 0 for one in ended.values())


def test_a_job_with_a_random_id_counts_when_it_ends(database: Database, seeded: Seeded) -> None:
    with database.begin() as connection:
        connection.execute(update(Job).where(Job.id == seeded.job_ids["succeeded"][0]).values(id=uuid4()))
    with database.read() as connection:
        now = minutes.this_minute(connection)
        ended = minutes.ended(connection, now - 2_000, now + 1)
    assert sum(one.unnumbered for one in ended.values()) == 1


def test_an_empty_system_has_no_oldest_minute(database: Database) -> None:
    with database.read() as connection:
        assert minutes.oldest(connection) is None
        assert dashboard.last_seen_s(connection) is None


def test_workers_are_alive_silent_unhealthy_or_gone(database: Database) -> None:
    from alexq_schema.db import workers

    system = System(database)
    ill, left = system.join(), system.join()
    system.silence(system.other)
    with database.begin() as connection:
        workers.fall_ill(connection, ill, "the device hung")
        workers.leave(connection, left)
    with database.read() as connection:
        seen = {worker.id: worker for worker in dashboard.workers(connection, seen_within_s=3_600)}
        recent = dashboard.workers(connection, seen_within_s=SILENT_AFTER_S)
        last_s = dashboard.last_seen_s(connection)
    alive = {worker_id for worker_id, worker in seen.items() if worker.is_alive(SILENT_AFTER_S)}
    assert alive == {system.worker}
    assert SILENT_AFTER_S < seen[system.other].silent_s < 2 * SILENT_AFTER_S
    assert seen[ill].unhealthy == "the device hung"
    assert seen[left].stopped
    assert system.other not in {worker.id for worker in recent}
    assert last_s is not None
    assert last_s < SILENT_AFTER_S


def test_dead_jobs_are_grouped_by_what_they_are_dead_of(database: Database, seeded: Seeded) -> None:
    dead = [row for row in rows(database) if row.state == "dead"]
    with database.read() as connection:
        found = dashboard.dead(connection)
        newest = dashboard.dead(connection, look_at=3)
        all_ids = dashboard.dead_ids(connection, error_code=None, after=None, limit=100)
        some = dashboard.dead_ids(connection, error_code="image_lost", after=all_ids[0], limit=2)
        events = dashboard.events(connection, dead[0].id)
    assert (found.jobs, found.looked_at, newest.jobs, newest.looked_at) == (8, 8, 8, 3)
    for some_dead, some_rows in ((found, dead), (newest, dead[:3])):
        counts = Counter(row.error_code for row in some_rows)
        assert {group.error_code: group.jobs for group in some_dead.groups} == counts
        assert some_dead.groups[0].jobs == max(counts.values())
    assert found.groups[0].newest_at == max(row.finished_at for row in dead if row.error_code == "image_lost")
    assert all_ids == [row.id for row in dead]
    assert some == [row.id for row in dead[1:] if row.error_code == "image_lost"][:2]
    assert [event.attempt for event in events] == [1, 2, 3]


def test_redrives_say_who_and_what_it_was_dead_of(database: Database, seeded: Seeded) -> None:
    """However much else happened since."""
    System(database).redrive(seeded.job_ids["dead"][:3])
    later = {"job_id": seeded.job_ids["failed"][0], "at": db_now(), "kind": "errored", "attempt": 1}
    with database.begin() as connection:
        connection.execute(insert(JobEvent).values([later] * 1_500))
    with database.read() as connection:
        done = dashboard.redrives(connection, 2)
    assert [event.job_id for event in done] == seeded.job_ids["dead"][2:0:-1]
    assert {event.actor for event in done} == {"a test"}
    assert {event.code for event in done} <= {"image_lost", "worker_crashed"}


def test_the_jobs_served_last_tell_where_their_time_went(database: Database, seeded: Seeded) -> None:
    with database.read() as connection:
        served = dashboard.recently_served(connection, 250)
    ended = [row for row in rows(database) if row.finished_at is not None]
    newest = sorted(ended, key=lambda row: row.finished_at, reverse=True)[:250]
    assert len(served) == sum(row.state == "succeeded" for row in newest)
    assert served[0].waited_s == pytest.approx(1.4, abs=0.01)
    assert served[0].held_s == pytest.approx(0.22, abs=0.01)
    with database.read() as connection:
        names = dashboard.worker_names(connection, {one.worker_id for one in served if one.worker_id})
    assert set(names.values()) == {
        ("gpu-1:4100", "cuda:0 NVIDIA L4"),
        ("gpu-1:4101", "cuda:1 NVIDIA L4"),
        ("gpu-2:4102", "cpu"),
    }


def test_a_submission_is_tallied_from_its_jobs(database: Database, seeded: Seeded) -> None:
    every = rows(database)
    with database.read() as connection:
        handed = tallies.newest(connection, after=None, limit=4)
        older = tallies.newest(connection, after=handed[-1].id, limit=100)
        tally = tallies.tally(connection, [one.id for one in handed])
        labels = tallies.labels(connection, handed[3].id, 3)
        waiting = tallies.open_ids(connection, handed[0].id, after=None, limit=5)
        then = tallies.open_ids(connection, handed[0].id, after=waiting[-1], limit=1_000)
    assert [one.id for one in [*handed, *older]] == list(reversed(seeded.submission_ids))
    for one in handed:
        theirs = [row for row in every if row.submission_id == one.id]
        counted = tally[one.id]
        assert counted.counts == Counter(JobState(row.state) for row in theirs)
        assert counted.ended + counted.left == len(theirs)
        assert counted.last_finished_at == max(row.finished_at for row in theirs if row.finished_at)
    mine = Counter(row.label for row in every if row.submission_id == handed[3].id and row.label)
    assert dict(labels).items() <= mine.items()
    assert [number for _, number in labels] == sorted(mine.values(), reverse=True)[:3]
    queued = [row.id for row in every if row.submission_id == handed[0].id and row.state == "queued"]
    assert waiting + then == sorted(queued)


def test_who_cancelled_jobs_of_a_submission_is_known(database: Database, seeded: Seeded) -> None:
    mine, theirs = seeded.job_ids["queued"][:2], seeded.job_ids["queued"][2:5]
    ended = seeded.job_ids["succeeded"][:1]
    for ids, actor in ((mine, "me"), (theirs + ended, "they"), (mine, "too late")):
        with database.begin() as connection:
            jobs.cancel(connection, ids, actor=actor)
    submission_id = next(row.submission_id for row in rows(database) if row.id == mine[0])
    with database.read() as connection:
        found = tallies.cancellations(connection, submission_id)
        others = tallies.cancellations(connection, seeded.submission_ids[0])
    assert {(one.actor, one.jobs) for one in found} == {("me", 2), ("they", 3)}
    assert others == []


def test_the_time_left_is_as_fast_as_so_far(database: Database, seeded: Seeded) -> None:
    """While some are left, up to now: one that stands still shows it."""
    with database.read() as connection:
        tally = tallies.tally(connection, [seeded.submission_ids[-1]])[seeded.submission_ids[-1]]
    assert tally.per_s is not None
    assert tally.left_s == pytest.approx(tally.left / tally.per_s)
    assert tally.at is not None
    tally.at += timedelta(days=1)
    assert tally.per_s < 0.02
    tally.first_claimed_at = tally.at
    assert (tally.per_s, tally.left_s) == (None, None)


def test_a_statement_that_takes_too_long_is_stopped(database: Database) -> None:
    endless = (
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000000000) "
        "SELECT max(i) FROM n"
    )
    with pytest.raises(DatabaseUnavailableError), read_within(database, 0.2) as connection:
        connection.execute(text(endless))
    with read_within(database, 60) as connection:  # what is read next is not
        assert connection.execute(select(1)).scalar() == 1


def test_what_ends_in_a_minute_is_of_the_databases_clock(database: Database) -> None:
    system = System(database)
    (job_id,) = system.queue(1)
    system.change([job_id], state="cancelled", finished_at=db_now(-3_600.0))
    with database.read() as connection:
        now = minutes.this_minute(connection)
        ended = minutes.ended(connection, now - 70, now + 1)
        (minute,) = ended
        assert ended[minute].states == {JobState.CANCELLED: 1}
        assert abs(now - 60 - minute) <= 1
        assert minutes.start_of(minute + 1) - minutes.start_of(minute) == timedelta(minutes=1)
