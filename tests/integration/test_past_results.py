"""Past results: kept for jobs that ask for it, found by the same tenant, bytes, version and options only."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from random import Random
from typing import Any

import pytest
from sqlalchemy import event, func, select, update

from alexq_schema.db import past_results, retention
from alexq_schema.db.clock import db_now
from alexq_schema.db.session import Database
from alexq_schema.db.tables import Job, PastResult
from alexq_schema.ids import new_id
from alexq_schema.job import JobState
from alexq_schema.options import Options, asked_of_model
from alexq_schema.work import NOTHING, Claim, Failed, Reused
from alexq_worker.table import SqlJobTable
from tests.helpers.system import LIMITS, System, success

REUSE = Options(reuse=True)


@pytest.fixture
def system(database: Database) -> System:
    return System(database)


@pytest.fixture
def table(system: System) -> SqlJobTable:
    return SqlJobTable(
        system.database,
        worker_id=system.worker,
        limits=LIMITS,
        retry_pause_s=1.0,
        random=Random(0),
    )


def claimed(system: System, table: SqlJobTable, **how: Any) -> Claim:
    [claim] = table.claim(system.queue(1, **how))
    return claim


def answer(system: System, table: SqlJobTable, *claims: Claim, label: str = "tabby") -> None:
    table.commit([success(claim, label)._replace(model_id=system.model_id) for claim in claims])


def rows(database: Database) -> int:
    with database.read() as connection:
        return connection.execute(select(func.count()).select_from(PastResult)).scalar_one()


@contextmanager
def statements(database: Database) -> Iterator[list[str]]:
    """Note every statement."""
    noted: list[str] = []

    def note(_conn: object, _cursor: object, statement: str, *_: object) -> None:
        noted.append(statement)

    event.listen(database.engine, "before_cursor_execute", note)
    try:
        yield noted
    finally:
        event.remove(database.engine, "before_cursor_execute", note)


def test_a_past_result_answers_the_same_again_and_says_whose_it_is(
    system: System, table: SqlJobTable
) -> None:
    first = claimed(system, table, tenant="shop", options=REUSE)
    assert table.find_past([first], system.model_id) == []
    answer(system, table, first)

    again = claimed(system, table, tenant="shop", options=REUSE)
    [found] = table.find_past([again], system.model_id)
    assert found == Reused(again, found.predictions, system.model_id, first.job_id)
    table.commit([found])

    original, job = system.get(first.job_id), system.get(again.job_id)
    assert (job.state, job.predictions, job.model) == (
        JobState.SUCCEEDED,
        original.predictions,
        original.model,
    )
    assert (original.reused_from, job.reused_from) == (None, first.job_id)
    assert (job.timings.decode_s, job.timings.forward_s) == (None, None)
    with system.database.read() as connection:
        statement = select(Job.batch_size, Job.label, Job.probability).where(Job.id == again.job_id)
        assert tuple(connection.execute(statement).one()) == (None, "tabby", 0.5)
    assert rows(system.database) == 1


@pytest.mark.parametrize(
    "other",
    [
        {"tenant": "another shop"},
        {"tenant": None},
        {"image": "b" * 64},
        {"options": Options(reuse=True, top_k=3)},
        {"options": Options(reuse=True, crops=10)},
        {"options": Options(reuse=True, temperature=2.0)},
        {"options": Options(reuse=True, min_probability=0.1)},
    ],
    ids=str,
)
def test_nothing_else_is_answered(system: System, table: SqlJobTable, other: dict[str, Any]) -> None:
    answer(system, table, claimed(system, table, tenant="shop", options=REUSE))

    claim = claimed(system, table, **({"tenant": "shop", "options": REUSE} | other))

    assert table.find_past([claim], system.model_id) == []


def test_another_version_or_precision_is_not_answered_and_has_results_of_its_own(
    system: System, table: SqlJobTable
) -> None:
    old = system.model_id
    answer(system, table, claimed(system, table, options=REUSE), label="of the old")
    system.serve("newer")
    claim = claimed(system, table, options=REUSE)
    assert table.find_past([claim], system.model_id) == []
    answer(system, table, claim, label="of the new")

    claim = claimed(system, table, options=REUSE)
    found = [table.find_past([claim], model)[0] for model in (old, system.model_id)]
    assert [one.predictions.label for one in found] == ["of the old", "of the new"]


def test_jobs_without_a_tenant_share_among_themselves(system: System, table: SqlJobTable) -> None:
    answer(system, table, claimed(system, table, options=REUSE))

    assert table.find_past([claimed(system, table, options=REUSE)], system.model_id)


def test_of_many_that_were_answered_together_one_is_kept(system: System, table: SqlJobTable) -> None:
    claims = table.claim(system.queue(20, options=REUSE))
    answer(system, table, *claims)

    again = table.claim(system.queue(20, options=REUSE))
    found = table.find_past(again, system.model_id)
    assert [one.claim for one in found] == again
    assert len({one.job_id for one in found}) == rows(system.database) == 1


def test_a_result_without_labels_answers_too(system: System, table: SqlJobTable) -> None:
    how = Options(reuse=True, min_probability=0.99)
    claim = claimed(system, table, options=how)
    table.commit([success(claim)._replace(predictions=NOTHING, model_id=system.model_id)])

    [found] = table.find_past([claimed(system, table, options=how)], system.model_id)
    assert (found.predictions.label, found.predictions.json) == (None, "[]")


def test_what_the_fence_refused_or_what_failed_is_not_kept(system: System, table: SqlJobTable) -> None:
    cancelled, failed = table.claim(system.queue(2, options=REUSE))
    with system.database.begin() as connection:
        connection.execute(
            update(Job).where(Job.id == cancelled.job_id).values(state=JobState.CANCELLED, attempt=1)
        )
    answer(system, table, cancelled)
    table.commit([Failed(failed, "image_corrupt", "broken")])

    assert rows(system.database) == 0


def test_a_late_worker_cannot_write_over_a_reused_answer(system: System, table: SqlJobTable) -> None:
    answer(system, table, claimed(system, table, options=REUSE))
    claim = claimed(system, table, options=REUSE)
    [found] = table.find_past([claim], system.model_id)
    system.silence(system.worker)
    system.return_silent()

    assert table.commit([found]).fenced == 1
    assert system.get(claim.job_id).state is JobState.QUEUED


def test_without_reuse_no_statement_knows_of_past_results(system: System, table: SqlJobTable) -> None:
    with statements(system.database) as plain:
        claims = table.claim(system.queue(8, options=Options(top_k=3)))
        assert not any(claim.reuses for claim in claims)
        answer(system, table, *claims)
    assert not [one for one in plain if "past_results" in one]

    with statements(system.database) as asked:
        claims = table.claim(system.queue(8, options=Options(top_k=3, reuse=True)))
        table.find_past(claims, system.model_id)
        answer(system, table, *claims)
    assert len([one for one in asked if "past_results" in one]) == 2


def test_old_ones_go_and_the_job_that_made_one_may_go_before(system: System, table: SqlJobTable) -> None:
    first = claimed(system, table, options=REUSE)
    answer(system, table, first)
    system.change([first.job_id], finished_at=db_now(-100))
    with system.database.begin() as connection:
        assert retention.delete_old(connection, older_than_s=50, limit=10) == 1
        past_results.delete_old(connection, older_than_s=50, limit=10)
    assert rows(system.database) == 1
    [found] = table.find_past([claimed(system, table, options=REUSE)], system.model_id)
    assert found.job_id == first.job_id

    with system.database.begin() as connection:
        connection.execute(update(PastResult).values(finished_at=db_now(-100)))
        past_results.delete_old(connection, older_than_s=50, limit=10)
    assert rows(system.database) == 0


def test_the_text_of_options_is_the_same_for_the_same_and_knows_later_ones() -> None:
    assert asked_of_model(None) == asked_of_model({"reuse": True}) == "{}"
    one, other = Options(top_k=3, temperature=2, reuse=True), Options(temperature=2.0, top_k=3)
    assert asked_of_model(one.stored()) == asked_of_model(other.stored())
    assert asked_of_model({"of a later release": [1]}) != "{}"


def test_two_workers_that_keep_the_same_at_once_do_not_hinder_each_other(
    system: System, table: SqlJobTable
) -> None:
    other = SqlJobTable(
        system.database, worker_id=system.other, limits=LIMITS, retry_pause_s=1.0, random=Random(0)
    )
    for _ in range(3):
        image = f"{new_id().hex}{new_id().hex}"
        mine, theirs = (one.claim(system.queue(3, image=image, options=REUSE)) for one in (table, other))
        for one, claims in ((table, mine), (other, theirs)):
            answer(system, one, *claims)
    assert rows(system.database) == 3
