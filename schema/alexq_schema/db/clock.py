"""The database's clock, the only one that decides: hosts' clocks differ."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, DateTime, Dialect, Float, TypeDecorator, bindparam, select
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement


class UtcDateTime(TypeDecorator[datetime]):
    """An aware UTC datetime; ``timestamptz`` on PostgreSQL, ISO text in UTC on SQLite."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Convert to UTC."""
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Mark SQLite's naive values as the UTC that they are."""
        return value.replace(tzinfo=UTC) if value is not None and value.tzinfo is None else value


class _Now(FunctionElement[datetime]):
    name = "alexq_now"
    type = UtcDateTime()
    inherit_cache = True


@compiles(_Now, "sqlite")
def _now_sqlite(element: _Now, compiler: SQLCompiler, **kw: Any) -> str:
    offset = compiler.process(element.clauses, **kw)
    modifier = f", ({offset}) || ' seconds'" if offset else ""
    # To the microsecond, as a bound datetime is written: the texts are compared, so they are equally long.
    return f"strftime('%Y-%m-%d %H:%M:%f000', 'now'{modifier})"


@compiles(_Now, "postgresql")
def _now_postgresql(element: _Now, compiler: SQLCompiler, **kw: Any) -> str:
    offset = compiler.process(element.clauses, **kw)
    return f"(clock_timestamp() + make_interval(secs => {offset}))" if offset else "clock_timestamp()"


def db_now(offset_s: float | ColumnElement[float] | None = None) -> FunctionElement[datetime]:
    """Return the SQL expression for the database's time, or for ``offset_s`` seconds from now."""
    if offset_s is None:
        return _Now()
    if not isinstance(offset_s, ColumnElement):
        offset_s = bindparam("offset_s", offset_s, type_=Float, unique=True)
    return _Now(offset_s)


class _Seconds(FunctionElement[float]):
    name = "alexq_seconds"
    type = Float()
    inherit_cache = True


@compiles(_Seconds, "sqlite")
def _seconds_sqlite(element: _Seconds, compiler: SQLCompiler, **kw: Any) -> str:
    earlier, later = (compiler.process(part, **kw) for part in element.clauses)
    return f"((julianday({later}) - julianday({earlier})) * 86400)"


@compiles(_Seconds, "postgresql")
def _seconds_postgresql(element: _Seconds, compiler: SQLCompiler, **kw: Any) -> str:
    earlier, later = (compiler.process(part, **kw) for part in element.clauses)
    return f"CAST(extract(epoch FROM {later} - {earlier}) AS DOUBLE PRECISION)"


def seconds_between(earlier: Any, later: Any) -> FunctionElement[float]:
    """Return the SQL expression for the time from one column to another, in s; null where one is.

    To the millisecond on SQLite, as its own clock is.
    """
    return _Seconds(earlier, later)


def now(connection: Connection) -> datetime:
    """Return the database's time."""
    return connection.execute(select(db_now())).scalar_one()
