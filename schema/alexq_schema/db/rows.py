"""Which rows a statement means: lists of ids as one parameter, states as the partial indexes know them.

A statement whose text is always the same is built, compiled and planned once.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import (
    ColumnClause,
    ColumnElement,
    Dialect,
    Select,
    String,
    TableValuedAlias,
    Text,
    TypeDecorator,
    and_,
    bindparam,
    literal_column,
    select,
)
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import TypeEngine

from alexq_schema.db.tables import Job
from alexq_schema.job import JobState


def literal_state(state: JobState) -> ColumnElement[str]:
    """Return ``state`` as part of the text: as a parameter, it would be hidden from partial indexes."""
    return literal_column(f"'{state.value}'", String)


IS_ENDED = Job.state.not_in([literal_state(JobState.QUEUED), literal_state(JobState.RUNNING)])
"""Terminal. Written as the index ``ix_jobs_ended`` has it: SQLite compares the text."""


def is_in(state: JobState) -> ColumnElement[bool]:
    """Return whether a job is in ``state``, so that an index of that state's rows can serve."""
    is_it = Job.state == literal_state(state)
    return and_(is_it, IS_ENDED) if state.is_terminal else is_it


def unindexed(column: Any) -> ColumnElement[str]:
    """Return a column of text as an expression, so that no index of it serves: rows are found in another way.

    PostgreSQL's counts are old, and it may believe that there are hardly any rows of this kind.
    """
    expression: ColumnElement[str] = column.concat(literal_column("''", String))
    return expression


def is_still_in(state: JobState) -> ColumnElement[bool]:
    """Return whether a job that is found by its id is in ``state``."""
    return unindexed(Job.state) == literal_state(state)


IS_QUEUED = is_in(JobState.QUEUED)
IS_RUNNING = is_in(JobState.RUNNING)


class _ListOf(TypeDecorator[Sequence[Any]]):
    """Values of one column's type: an array on PostgreSQL, a JSON array on SQLite."""

    impl = Text
    cache_ok = True

    def __init__(self, item: TypeEngine[Any]) -> None:
        super().__init__()
        self.item = item

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        is_postgresql = dialect.name == "postgresql"
        return dialect.type_descriptor(ARRAY(self.item) if is_postgresql else Text())

    def process_bind_param(self, value: Sequence[Any] | None, dialect: Dialect) -> Any:
        if value is None or dialect.name == "postgresql":
            return value
        return json.dumps([one.hex if isinstance(one, UUID) else one for one in value])


class _Among(FunctionElement[bool]):
    name = "alexq_among"
    inherit_cache = True  # not typed Boolean: SQLAlchemy would append "= 1", and SQLite scan the table


@compiles(_Among, "sqlite")
def _among_sqlite(element: _Among, compiler: SQLCompiler, **kw: Any) -> str:
    column, values = (compiler.process(part, **kw) for part in element.clauses)
    return f"{column} IN (SELECT value FROM json_each({values}))"  # noqa: S608 - parts are compiled


@compiles(_Among, "postgresql")
def _among_postgresql(element: _Among, compiler: SQLCompiler, **kw: Any) -> str:
    column, values = (compiler.process(part, **kw) for part in element.clauses)
    return f"{column} = ANY ({values})"


def among(column: Any, name: str) -> ColumnElement[bool]:
    """Return whether ``column`` is one of the values of the parameter ``name``: a sequence of any length."""
    return _Among(column, bindparam(name, type_=_ListOf(column.type)))


class _JsonText(FunctionElement[Any]):
    name = "alexq_json_text"
    inherit_cache = True


@compiles(_JsonText, "sqlite")
def _json_text_sqlite(element: _JsonText, compiler: SQLCompiler, **kw: Any) -> str:
    return compiler.process(element.clauses, **kw)


@compiles(_JsonText, "postgresql")
def _json_text_postgresql(element: _JsonText, compiler: SQLCompiler, **kw: Any) -> str:
    return f"CAST({compiler.process(element.clauses, **kw)} AS JSONB)"


def from_text(text: ColumnElement[str]) -> ColumnElement[Any]:
    """Return the value of a JSON column given by its text."""
    return _JsonText(text)


class _Given(FunctionElement[Any]):
    name = "alexq_given"
    inherit_cache = True


@compiles(_Given, "sqlite")
def _given_sqlite(element: _Given, compiler: SQLCompiler, **kw: Any) -> str:
    rows, *columns = element.clauses
    fields = ", ".join(f"json_extract(value, '$.{column.name}') AS {column.name}" for column in columns)
    return f"(SELECT {fields} FROM json_each({compiler.process(rows, **kw)}))"  # noqa: S608 - names of ours


@compiles(_Given, "postgresql")
def _given_postgresql(element: _Given, compiler: SQLCompiler, **kw: Any) -> str:
    rows, *columns = element.clauses
    as_type = compiler.dialect.type_compiler_instance.process
    fields = ", ".join(f"{column.name} {as_type(column.type)}" for column in columns)
    given = f"json_to_recordset(CAST({compiler.process(rows, **kw)} AS JSON))"
    return f"(SELECT * FROM {given} AS fields({fields}))"  # noqa: S608 - names of ours


def rows_given(name: str, *columns: ColumnClause[Any]) -> TableValuedAlias:
    """Return a table of ``columns``: the rows are a JSON array of objects, the parameter ``name``.

    What an object lacks is null. One statement with one parameter serves any number of rows, where a
    driver's ``executemany`` is busy with each value of each.
    """
    return _Given(bindparam(name, type_=Text), *columns).table_valued(*columns, name=name)


def locked(*conditions: ColumnElement[bool]) -> Select[UUID]:
    """Return the ids of matching jobs, their rows locked in order so that writers cannot deadlock."""
    return select(Job.id).where(*conditions).order_by(Job.id).with_for_update()
