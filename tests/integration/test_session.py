"""Connections: what is synced to the disk, and what becomes of a connection that is lost."""

from __future__ import annotations

import pytest
from sqlalchemy import func, select, text, update

from alexq_schema.db import session
from alexq_schema.db.clock import db_now
from alexq_schema.db.session import Database
from alexq_schema.db.tables import Sweeper
from alexq_schema.errors import DatabaseUnavailableError
from tests.helpers.postgres import PostgresServer

FULL, NORMAL = 2, 1


def test_on_sqlite_only_what_would_be_done_again_may_be_lost_with_the_power(sqlite_url: str) -> None:
    database = Database(sqlite_url)

    for _ in range(2):  # the same connection serves both
        with database.begin() as connection:
            assert connection.execute(text("PRAGMA synchronous")).scalar() == FULL
        with database.begin_repeatable() as connection:
            assert connection.execute(text("PRAGMA synchronous")).scalar() == NORMAL
    database.close()


def test_a_time_that_was_read_is_neither_before_nor_after_the_one_that_is_stored(database: Database) -> None:
    with database.begin() as connection:
        connection.execute(update(Sweeper).values(held_until=db_now()))
        held_until = connection.execute(select(Sweeper.held_until)).scalar_one()
        assert held_until is not None

        for condition in (Sweeper.held_until < held_until, Sweeper.held_until > held_until):
            assert connection.execute(select(func.count()).where(condition)).scalar_one() == 0


@pytest.fixture
def lost(postgres_server: PostgresServer, postgres_url: str) -> Database:
    """A pool whose one connection the server has ended meanwhile."""
    database = Database(postgres_url)
    with database.read() as connection:
        connection.execute(text("SELECT 1"))
    with postgres_server.outage(postgres_url):
        pass
    return database


def test_a_connection_that_was_lost_while_idle_is_replaced_unnoticed(
    lost: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "PING_AFTER_S", 0.0)

    with lost.begin() as connection:
        assert connection.execute(text("SELECT 1")).scalar() == 1
    lost.close()


def test_a_connection_that_was_lost_in_use_is_an_outage_once(
    lost: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "PING_AFTER_S", 3_600.0)

    with pytest.raises(DatabaseUnavailableError), lost.begin() as connection:
        connection.execute(text("SELECT 1"))

    with lost.begin() as connection:
        assert connection.execute(text("SELECT 1")).scalar() == 1
    lost.close()


def test_a_transaction_whose_client_does_not_go_on_is_given_up_with_its_locks(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As that of a host that was cut off: nobody else would get the lock."""
    monkeypatch.setattr(session, "IDLE_IN_TRANSACTION_S", 2.0)
    silent, other = Database(postgres_url), Database(postgres_url)

    with pytest.raises(DatabaseUnavailableError):
        be_overtaken(silent, other)

    with silent.begin() as connection:
        assert connection.execute(select(Sweeper.queue_epoch)).scalar_one() == "of the other"
    silent.close()
    other.close()


def be_overtaken(silent: Database, other: Database) -> None:
    with silent.begin() as lock:
        lock.execute(update(Sweeper).values(queue_epoch="of the silent one"))
        with other.begin() as connection:
            connection.execute(update(Sweeper).values(queue_epoch="of the other"))
        lock.execute(update(Sweeper).values(queue_epoch="of the silent one again"))
