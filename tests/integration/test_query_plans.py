"""What a statement costs does not grow with the backlog, nor with the jobs that have ended.

Shown by the plans that the databases make: rows of ``jobs`` are reached by their ids or by a range of an
index that holds only what is looked for.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import event

from alexq_schema.db import (
    accept,
    backlog,
    dashboard,
    deliveries,
    delivery_waking,
    jobs,
    minutes,
    pages,
    past_results,
    publishing,
    queries,
    retention,
    search,
    tallies,
)
from alexq_schema.db.accept import NewJob, NewSubmission
from alexq_schema.db.deliveries import Notice
from alexq_schema.db.pages import JobFilter, Place
from alexq_schema.db.search import JobSearch
from alexq_schema.db.session import Database
from alexq_schema.ids import new_id
from alexq_schema.job import JobState
from alexq_schema.names import Lane, QueueLane, lanes_of
from alexq_schema.options import Options
from alexq_schema.webhooks import Event
from alexq_schema.work import Crashed, Errored, Failed
from benchmarks.scale.load import insert_ended
from tests.helpers.system import System, success
from tests.helpers.webhooks import finish_one, make_due, register

OF_JOBS = re.compile(
    r"WITH RECURSIVE waiting|"
    r"(UPDATE|DELETE FROM|SELECT .*\sFROM) (submissions JOIN (LATERAL \(SELECT )?)?"
    r"(jobs|webhook_deliveries)\b",
    re.DOTALL,
)
QUEUES = ("", "gold", "vip")
BY_ID = {"jobs_pkey", "sqlite_autoindex_jobs_1"}


@pytest.fixture
def system(database: Database) -> System:
    """Jobs that ended and jobs that wait, in numbers; PostgreSQL counted them when none waited."""
    system = System(database)
    with database.begin() as connection:
        insert_ended(connection, 20_000)
    count(database)
    system.queue(2_000)
    return system


def count(database: Database) -> None:
    """Let PostgreSQL know how many rows there are of which kind; SQLite's planner does not ask."""
    if database.engine.dialect.name == "postgresql":
        with database.engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
            connection.exec_driver_sql("ANALYZE jobs, submissions")


@contextmanager
def plans(database: Database) -> Iterator[list[str]]:
    """Note the plan of every SELECT, UPDATE or DELETE of jobs."""
    noted: list[str] = []
    is_sqlite = database.engine.dialect.name == "sqlite"

    def note(_conn: object, cursor: Any, statement: str, parameters: Any, _: object, is_many: bool) -> None:
        if OF_JOBS.match(statement):
            asked = parameters[0] if is_many else parameters
            cursor.execute(f"EXPLAIN {'QUERY PLAN ' if is_sqlite else ''}{statement}", asked)
            noted.append("\n".join(str(row[3 if is_sqlite else 0]) for row in cursor.fetchall()))

    event.listen(database.engine, "before_cursor_execute", note)
    try:
        yield noted
    finally:
        event.remove(database.engine, "before_cursor_execute", note)


def ways(plan: str) -> set[str]:
    """Return the indexes through which the plan reaches ``jobs``; the table itself where it is scanned."""
    used = set(re.findall(r"\b(?:ix_jobs_\w+|jobs_pkey|sqlite_autoindex_jobs_1)\b", plan))
    if re.search(r"Seq Scan on jobs\b|SCAN jobs(?! USING)", plan):
        used.add("the whole table")
    return used


def expire(system: System) -> None:
    with system.database.begin() as connection:
        jobs.expire(connection, limit=100)


def delete_old(system: System) -> None:
    with system.database.begin() as connection:
        retention.delete_old(connection, older_than_s=1e6, limit=100)


def read(system: System) -> None:
    job_ids = system.queue(64)
    with system.database.read() as connection:
        queries.finished(connection, job_ids)
        queries.by_id(connection, job_ids)


def estimate(system: System) -> None:
    with system.database.read() as connection:
        found = backlog.queues(connection)
    assert found[QueueLane("", Lane.BULK)].jobs >= 2_000


def measure_usage(system: System) -> None:
    with system.database.read() as connection:
        assert backlog.usage_by_tenant(connection)[None].jobs >= 2_000


def list_ended(system: System) -> None:
    with system.database.read() as connection:
        queries.newest(connection, state=JobState.SUCCEEDED)


def list_label(system: System) -> None:
    with system.database.read() as connection:
        queries.newest(connection, label="no such label")


def redrive(system: System) -> None:
    assert system.redrive() == []


def cancel(system: System) -> None:
    job_ids = system.queue(64)
    with system.database.begin() as connection:
        publishing.mark_unpublished(connection, job_ids)
        jobs.cancel(connection, job_ids, actor="me")


def wake(system: System) -> None:
    """Those of which a job has ended, not those that wait."""
    webhook_id, _ = register(system.database, "https://receiver.example/")
    system.queue(64, notice=Notice(webhook_id, Event.SUBMISSION_FINISHED))
    finish_one(system, webhook_id, jobs=64)
    with system.database.begin() as connection:
        delivery_ids, _ = delivery_waking.to_wake(connection, None)
        delivery_waking.wake(connection, delivery_ids)
    assert len(delivery_ids) == 1


def deliver(system: System) -> None:
    """One delivery whose jobs wait, one whose jobs have ended."""
    webhook_id, _ = register(system.database, "https://receiver.example/")
    system.queue(64, notice=Notice(webhook_id, Event.SUBMISSION_FINISHED))
    finish_one(system, webhook_id, jobs=64)
    make_due(system.database)
    with system.database.begin() as connection:
        due, looked_at = deliveries.take_due(connection, limit=100, lease_s=60.0)
    assert (len(due), looked_at) == (1, 2)
    with system.database.begin() as connection:
        claimed = deliveries.claim(connection, due[0], lease_s=60.0)
        assert claimed is not None
        assert queries.traceparent_of(connection, claimed.submission_id) is None


def serve(system: System) -> None:
    claims = system.claim(system.queue(64))
    with system.database.begin() as connection:
        jobs.release(connection, claims[60:], worker_id=system.worker)
    one, two, three, *others = claims[:60]
    ours = [Failed(one, "code", "why"), Errored(two, "code", "why"), Crashed(three, "why")]
    assert system.commit([*ours, *map(success, others)]) == 60


def reuse(system: System) -> None:
    claims = system.claim(system.queue(64, tenant="shop", options=Options(reuse=True)))
    with system.database.begin() as connection:
        past_results.find(connection, claims, system.model_id)
        past_results.keep(connection, [success(claim) for claim in claims], system.worker)


def look(system: System) -> None:
    with system.database.read() as connection:
        assert backlog.waiting(connection)[QueueLane("", Lane.BULK)].jobs >= 2_000


def look_at_the_dead(system: System) -> None:
    with system.database.read() as connection:
        dashboard.dead(connection)
        dashboard.dead_ids(connection, error_code=None, after=None, limit=50)


def look_at_minutes(system: System) -> None:
    with system.database.read() as connection:
        now = minutes.this_minute(connection)
        minutes.ended(connection, now - 2, now + 1)


def look_at_batches(system: System) -> None:
    with system.database.read() as connection:
        dashboard.recently_served(connection, 100)


def tally(system: System) -> None:
    with system.database.read() as connection:
        handed = tallies.newest(connection, after=None, limit=1)
        tallies.tally(connection, [handed[0].id])
        tallies.labels(connection, handed[0].id, 10)
        tallies.open_ids(connection, handed[0].id, after=None, limit=100)


def search_for(**wanted: Any) -> Callable[[System], None]:
    def act(system: System) -> None:
        with system.database.read() as connection:
            search.page(connection, JobSearch(**wanted), after=None, limit=50, look_at=500)

    return act


@pytest.mark.parametrize(
    ("act", "index"),
    [
        (serve, None),
        (reuse, None),
        (read, None),
        (cancel, None),
        (redrive, "ix_jobs_ended"),
        (list_ended, "ix_jobs_ended"),
        (list_label, "ix_jobs_labelled"),
        (lambda system: system.take_unpublished(emptied=lanes_of("")), "ix_jobs_unclaimed"),
        (System.return_silent, "ix_jobs_running"),
        (expire, "ix_jobs_expiring"),
        (delete_old, "ix_jobs_finished"),
        (wake, "ix_jobs_finished"),
        (deliver, "ix_jobs_in_submission"),
        (look, "ix_jobs_unclaimed"),
        (look_at_the_dead, "ix_jobs_ended"),
        (look_at_minutes, "ix_jobs_finished"),
        (look_at_batches, "ix_jobs_finished"),
        (tally, "ix_jobs_in_submission"),
        (search_for(), None),
        (search_for(tenant="shop"), None),
        (search_for(state=JobState.QUEUED), None),
        (search_for(min_probability=0.9), None),
        (search_for(state=JobState.RUNNING), "ix_jobs_running"),
        (search_for(state=JobState.DEAD), "ix_jobs_ended"),
        (search_for(state=JobState.SUCCEEDED, min_probability=0.9), "ix_jobs_ended"),
        (search_for(label="yesterday", tenant="shop"), "ix_jobs_labelled"),
        (search_for(submission_id=new_id(), state=JobState.FAILED), "ix_jobs_in_submission"),
        (estimate, "ix_jobs_unclaimed"),
        (measure_usage, "ix_jobs_unclaimed"),
    ],
    ids=[
        *(
            "serve",
            "reuse",
            "read",
            "cancel",
            "redrive",
            "list",
            "label",
            "publish",
            "silent",
            "expire",
            "delete",
        ),
        *("wake", "deliver"),
        *(
            "look",
            "dead",
            "minutes",
            "batches",
            "tally",
            "search",
            "tenant",
            "queued",
            "confidence",
            "running",
        ),
        *("search dead", "sure", "label of a tenant", "failed of a submission"),
        *("estimate", "usage"),
    ],
)
def test_rows_are_found_by_id_or_by_the_index_of_those_looked_for(
    system: System, act: Callable[[System], object], index: str | None
) -> None:
    if index:  # what looks for a kind of jobs needs a count of them; what goes by ids does not
        system.claim(system.queue(64))
        count(system.database)
    expected = BY_ID | ({index} if index else set())
    if index == "ix_jobs_unclaimed":
        expected |= {"ix_jobs_running"}  # what overtook whom, what is unfinished
    if act is estimate:
        expected |= {"ix_jobs_finished"}
    if act is look:
        expected |= {"ix_jobs_ended"}  # of the dead

    with plans(system.database) as noted:
        act(system)

    assert noted
    for plan in noted:
        assert ways(plan) <= expected, plan
    if index and "sqlite" in str(system.database.engine.url):
        assert any(index in ways(plan) for plan in noted), "\n\n".join(noted)


@pytest.mark.parametrize(
    "wanted",
    [
        JobFilter(),
        JobFilter(state=JobState.QUEUED),
        JobFilter(state=JobState.SUCCEEDED, label="tabby"),
        JobFilter(created_after=datetime(2026, 1, 1, tzinfo=UTC)),
    ],
    ids=["all", "queued", "label", "time"],
)
def test_a_tenants_list_reads_its_own_jobs_only(system: System, wanted: JobFilter) -> None:
    with system.database.begin() as connection:
        others = [NewSubmission(new_id(), [], Lane.BULK, tenant=f"t{number % 50}") for number in range(3_000)]
        mine = [NewSubmission(new_id(), [NewJob(new_id(), "", "a" * 64, 3)], Lane.BULK, tenant="shop")]
        accept.add(connection, [*others, *mine])
    count(system.database)

    with plans(system.database) as noted, system.database.read() as connection:
        page = pages.jobs(connection, "shop", wanted, after=None, limit=50)
        pages.jobs(connection, "shop", wanted, after=Place(new_id(), new_id()), limit=50)

    assert len(page) == (wanted.label is None)
    assert len(noted) == 2
    for plan in noted:
        assert ways(plan) == {"ix_jobs_in_submission"}, plan
        assert "ix_submissions_tenant" in plan, plan


def test_the_sweeper_reads_a_range_of_the_waiting_jobs(sqlite_url: str) -> None:
    database = Database(sqlite_url)
    system = System(database)
    for queue in QUEUES:
        system.queue(2, queue=queue)
    with plans(database) as noted:
        system.take_unpublished(emptied=[lane for queue in QUEUES for lane in lanes_of(queue)])
    database.close()

    ranges = [found for plan in noted for found in re.findall(r"ix_jobs_unclaimed \((.*)\)", plan)]
    expected = ["published_at=? AND retry_at=?", "published_at=? AND retry_at<?", "published_at<?"]
    taken = [f"queue=? AND lane=? AND {one}" for one in expected]
    assert sorted(ranges) == sorted([*len(QUEUES) * len(Lane) * taken, "queue>?"])
    assert not any("TEMP B-TREE FOR ORDER BY" in plan for plan in noted if "ix_jobs_unclaimed" in plan)
