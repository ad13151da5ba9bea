"""PostgreSQL plans for the tables as they are, not as they were when it first prepared a statement."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import redis
from celery import Celery
from sqlalchemy import Connection, text

from alexq_schema.db import jobs, statistics
from alexq_schema.db.session import Database
from alexq_schema.settings import Settings
from alexq_worker.metrics import Metrics
from alexq_worker.sweeper import Sweeper
from benchmarks.scale.load import insert_ended
from tests.helpers.system import LIMITS, System, success

ROWS = 20_000


@pytest.fixture
def database_url(postgres_url: str) -> str:
    """SQLite does not count."""
    return postgres_url


@pytest.fixture
def system(database: Database) -> System:
    """A system that has grown since PostgreSQL counted it and planned for it."""
    system = System(database)
    system.queue(30)
    with database.begin() as connection:
        connection.execute(text("ANALYZE"))
    database.close()  # a new session follows
    for _ in range(12):
        serve(system, 2)
    with database.begin() as connection:
        insert_ended(connection, ROWS)
    return system


def serve(system: System, count: int) -> int:
    """Serve so many new jobs in one transaction; return how many rows were read without an index."""
    job_ids = system.queue(count)
    with system.database.begin() as connection:
        before = rows_scanned(connection)
        claims = jobs.claim(connection, job_ids, system.worker)
        jobs.release(connection, claims[::2], worker_id=system.worker)
        jobs.commit(
            connection,
            [success(claim)._replace(model_id=system.model_id) for claim in claims[1::2]],
            worker_id=system.worker,
            limits=LIMITS,
            pause_s=lambda _errors: 0.0,
        )
        return rows_scanned(connection) - before


def rows_scanned(connection: Connection) -> int:
    """Return how many rows of ``jobs`` this transaction has read without an index."""
    statement = "SELECT seq_tup_read FROM pg_stat_xact_user_tables WHERE relname = 'jobs'"
    return int(connection.execute(text(statement)).scalar_one())


def test_the_sweeper_has_a_table_counted_that_has_grown(
    system: System, settings: Settings, sender: Celery
) -> None:
    assert serve(system, 64) > ROWS  # by the plan for a small one, as long as nobody counts
    unused: Any = None
    with redis.Redis.from_url(settings.broker_url) as client:
        heartbeat: Any = SimpleNamespace(may_judge_silence=False)
        Sweeper(
            settings,
            system.other,
            database=system.database,
            images=unused,
            client=client,
            app=sender,
            notifier=unused,
            metrics=Metrics(),
            heartbeat=heartbeat,
        ).sweep()

    assert serve(system, 64) == 0
    with system.database.begin() as connection:
        assert statistics.refresh(connection) == []  # once


def test_a_table_that_somebody_has_in_hand_is_left_to_them(system: System) -> None:
    with system.database.begin() as vacuum, system.database.begin() as connection:
        vacuum.execute(text("LOCK TABLE jobs IN SHARE UPDATE EXCLUSIVE MODE"))  # as autovacuum does
        connection.execute(text("SET LOCAL lock_timeout = '10s'"))
        assert "jobs" in statistics.refresh(connection)
    assert serve(system, 64) > ROWS
