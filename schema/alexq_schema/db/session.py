"""Connections to the SQL database: SQLite (WAL) for one host, PostgreSQL for many."""

from __future__ import annotations

import math
import sqlite3
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import sqlalchemy
from pydantic_core import from_json
from sqlalchemy import Connection, Dialect, Engine, event
from sqlalchemy.exc import ArgumentError, DBAPIError, DisconnectionError, NoSuchModuleError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.pool import ConnectionPoolEntry

from alexq_schema.errors import DatabaseFullError, DatabaseUnavailableError, MigrationError, SettingsError

CONNECT_TIMEOUT_S = 5
SQLITE_BUSY_TIMEOUT_S = 30
"""How long a statement waits for another process's write transaction."""
PING_AFTER_S = 1.0
"""Idle time after which a connection to PostgreSQL is asked whether it still is one before it is used."""
IDLE_IN_TRANSACTION_S = 10.0
"""Pause between two statements of a transaction at which PostgreSQL gives it up, and its locks with it.

No transaction of ours pauses. One whose host was cut off or stopped does, and its locks would hold up
everyone else for as long as the server does not notice: two hours, by Linux's defaults.
"""

_POSTGRESQL_CONNECTION = {
    "connect_timeout": CONNECT_TIMEOUT_S,
    # A host that vanished without a word is noticed after 20 s, not after the kernel's quarter of an hour.
    "keepalives_idle": 5,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,
}


def create_engine(database_url: str, sqlite_wait_s: float = SQLITE_BUSY_TIMEOUT_S) -> Engine:
    """Return an engine for ``database_url``; connects on first use.

    Args:
        sqlite_wait_s: how long a statement waits for another process's write transaction.

    Raises:
        SettingsError: the URL is malformed or names a database that alexq does not know.
    """
    try:
        url = sqlalchemy.make_url(database_url)
        backend = url.get_backend_name()
        if backend == "sqlite":
            engine = sqlalchemy.create_engine(
                url, connect_args={"timeout": sqlite_wait_s}, json_deserializer=from_json
            )
            event.listen(engine, "connect", _configure_sqlite)
            event.listen(engine, "begin", _begin_sqlite)
            return engine
        if backend == "postgresql":
            engine = sqlalchemy.create_engine(
                url.set(drivername="postgresql+psycopg"),
                connect_args=_POSTGRESQL_CONNECTION,
                json_deserializer=from_json,
            )
            event.listen(engine, "connect", _give_up_idle_transactions)
            event.listen(engine, "connect", _forgo_preparing_in_a_pool)
            event.listen(engine, "checkin", _note_use)
            event.listen(engine, "checkout", partial(_ping_if_idle, engine.dialect))
            return engine
    except (ArgumentError, NoSuchModuleError, ValueError) as error:
        raise SettingsError(f"ALEXQ_DATABASE_URL is not a database URL: {error}") from error
    raise SettingsError(f"ALEXQ_DATABASE_URL names {backend!r}; alexq knows sqlite and postgresql")


def _give_up_idle_transactions(connection: Any, _record: object) -> None:
    # A statement, not a parameter of the connection, which PgBouncer would refuse.
    connection.autocommit = True
    connection.execute(f"SET idle_in_transaction_session_timeout = {int(IDLE_IN_TRANSACTION_S * 1000)}")
    connection.autocommit = False


def _forgo_preparing_in_a_pool(connection: Any, _record: object) -> None:
    """Prepare no statements behind a pooler: there the next transaction may have another session.

    PgBouncer and its like tell a client of a backend of their own making.
    """
    [backend] = connection.execute("SELECT pg_backend_pid()").fetchone()
    connection.rollback()
    if backend != connection.info.backend_pid:
        connection.prepare_threshold = None


def _note_use(_connection: object, record: ConnectionPoolEntry) -> None:
    record.info["used_at"] = time.monotonic()


def _ping_if_idle(dialect: Dialect, connection: Any, record: ConnectionPoolEntry, _proxy: object) -> None:
    """Have the pool connect anew in place of a connection that was lost while nobody used it."""
    if time.monotonic() - record.info.get("used_at", math.inf) > PING_AFTER_S:
        try:
            dialect.do_ping(connection)
        except dialect.loaded_dbapi.Error as error:
            raise DisconnectionError(str(error)) from error


def _configure_sqlite(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # transactions begin where _begin_sqlite says
    for pragma in ("journal_mode=WAL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    options = connection.get_execution_options()
    level = "FULL" if options.get("alexq_is_durable", True) else "NORMAL"
    connection.connection.driver_connection.execute(f"PRAGMA synchronous={level}")  # type: ignore[union-attr]
    # A transaction that writes takes the write lock at once: one that starts as a reader and turns
    # writer fails with "database is locked" without waiting, whatever the busy timeout.
    connection.exec_driver_sql("BEGIN" if options.get("alexq_reads_only", False) else "BEGIN IMMEDIATE")


class Database:
    """Transactions on one database, its driver's errors translated."""

    def __init__(self, database_url: str, sqlite_wait_s: float = SQLITE_BUSY_TIMEOUT_S) -> None:
        """Prepare; see :func:`create_engine`."""
        self.engine = create_engine(database_url, sqlite_wait_s)
        self._worker = self.engine.execution_options(alexq_is_durable=False)
        self._reader = self.engine.execution_options(alexq_reads_only=True)

    def begin(self) -> AbstractContextManager[Connection]:
        """Return a context manager: a connection in a transaction that commits at the end, and then lasts."""
        return _transaction(self.engine)

    def begin_repeatable(self) -> AbstractContextManager[Connection]:
        """Return one as :meth:`begin` does, for what a worker does to jobs and another would do again.

        On SQLite it is not synced to the disk by itself: a host that loses its power may lose the last of
        these, as if they had not been, together with the process that began them. Whoever commits with
        :meth:`begin` syncs all that were before. On PostgreSQL, whose server may go without its workers,
        it lasts as any other.
        """
        return _transaction(self._worker)

    def read(self) -> AbstractContextManager[Connection]:
        """Return a context manager: a connection in a transaction that only reads."""
        return _transaction(self._reader)

    def close(self) -> None:
        """Close every connection."""
        self.engine.dispose()


@contextmanager
def _transaction(engine: Engine) -> Iterator[Connection]:
    try:
        with engine.begin() as connection:
            yield connection
    except (DBAPIError, PoolTimeoutError) as error:
        name = engine.url.render_as_string(hide_password=True)
        reason = getattr(error, "orig", error)
        if is_outage(error):
            kind = DatabaseFullError if _is_disk_trouble(error) else DatabaseUnavailableError
            raise kind(f"the database {name} {_SAYS[kind]}: {reason}") from error
        if _lacks_tables(error):
            raise MigrationError(
                f"the database {name} lacks a table ({reason}): run `alexq migrate`"
            ) from error
        raise


_SAYS = {
    DatabaseUnavailableError: "does not answer",
    DatabaseFullError: "cannot write; free space on its disk or check its permissions",
}
_SQLITE_DISK_TROUBLES = {sqlite3.SQLITE_READONLY, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_FULL}
_SQLITE_OUTAGES = {
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_CANTOPEN,
} | _SQLITE_DISK_TROUBLES
_POSTGRESQL_OUTAGES = {"08", "25", "40", "53", "57"}
"""SQLSTATE classes: connection, read-only after a failover, deadlock, resources, operator intervention."""


def is_outage(error: SQLAlchemyError) -> bool:
    """Return whether the same statement may succeed later: unreachable, locked, full, or in conflict."""
    if not isinstance(error, DBAPIError) or error.connection_invalidated:
        return isinstance(error, PoolTimeoutError | DBAPIError)
    if (code := getattr(error.orig, "sqlite_errorcode", None)) is not None:
        return code & 0xFF in _SQLITE_OUTAGES  # the low byte of an extended code
    state = getattr(error.orig, "sqlstate", None)
    if state is None:  # psycopg could not connect, or lost the connection
        return isinstance(error, sqlalchemy.exc.OperationalError)
    return state[:2] in _POSTGRESQL_OUTAGES


def _is_disk_trouble(error: SQLAlchemyError) -> bool:
    """Return whether SQLite cannot write; a server's disk is its own affair, and an outage here."""
    code = getattr(getattr(error, "orig", None), "sqlite_errorcode", None)
    return code is not None and code & 0xFF in _SQLITE_DISK_TROUBLES


def _lacks_tables(error: SQLAlchemyError) -> bool:
    cause = getattr(error, "orig", None)
    return getattr(cause, "sqlstate", None) == "42P01" or "no such table" in str(cause)


def sqlite_path(database_url: str) -> Path | None:
    """Return the file of a SQLite URL, or None for another database."""
    url = sqlalchemy.make_url(database_url)
    return Path(url.database) if url.get_backend_name() == "sqlite" and url.database else None
