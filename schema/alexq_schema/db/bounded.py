"""Reading that ends: a statement that takes longer than it may is stopped, on either database."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from sqlalchemy import Connection, text
from sqlalchemy.exc import OperationalError

from alexq_schema.db.session import Database
from alexq_schema.errors import DatabaseUnavailableError

_STEPS: Final = 20_000
"""Instructions of SQLite's virtual machine between two looks at the clock: some milliseconds."""


@contextmanager
def read_within(database: Database, limit_s: float) -> Iterator[Connection]:
    """Yield a connection in a transaction that only reads; ``limit_s`` bounds each statement, on SQLite all.

    Raises:
        DatabaseUnavailableError: the database does not answer, or was stopped after that time.
    """
    with database.read() as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(text(f"SET LOCAL statement_timeout = {int(limit_s * 1000)}"))
            yield connection
        else:
            with _sqlite_deadline(connection, limit_s):
                yield connection


@contextmanager
def _sqlite_deadline(connection: Connection, limit_s: float) -> Iterator[None]:
    driver: Any = connection.connection.driver_connection
    deadline = time.monotonic() + limit_s
    driver.set_progress_handler(lambda: time.monotonic() > deadline, _STEPS)
    try:
        yield
    except OperationalError as error:
        if getattr(error.orig, "sqlite_errorcode", None) == sqlite3.SQLITE_INTERRUPT:
            raise DatabaseUnavailableError(f"the database was stopped after {limit_s:g} s") from error
        raise
    finally:
        driver.set_progress_handler(None, 0)
