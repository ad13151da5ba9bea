"""Jobs that a past result answers cost no fetch, no decode and no place; the others cost no question."""

from __future__ import annotations

from uuid import UUID

import pytest

from alexq_schema.work import Predictions, Reused, Succeeded
from tests.helpers.eventually import eventually
from tests.unit.pipeline.test_pipeline import GreyEngine, Rig
from tests.unit.pipeline.test_sharing import claimed, held, occupied, shared

PAST = Predictions("grey of the past", 0.5, "[]")
KEY = "7#same"


def reusing(rig: Rig, count: int, pinned: str | None = None) -> list[UUID]:
    job_ids = rig.table.queue_same(count, pinned=pinned)
    rig.table.options.update({job_id: {"reuse": True} for job_id in job_ids})
    return job_ids


def kinds(rig: Rig, job_ids: list[UUID]) -> set[type]:
    return {type(rig.table.outcomes[job_id]) for job_id in job_ids}


def test_a_job_that_does_not_ask_is_not_looked_up_and_computed(rig: Rig) -> None:
    rig.table.past[KEY, 1] = PAST
    plain = rig.table.queue_same(3)
    rig.submit(plain).result(60)

    assert "find_past" not in rig.table.calls
    assert kinds(rig, plain) == {Succeeded}


def test_those_that_ask_are_looked_up_together_and_answered_without_a_decode(rig: Rig) -> None:
    rig.table.past[KEY, 1] = PAST
    rig.decoder.may_go.clear()  # a decode would show
    job_ids = reusing(rig, 20)
    summary = rig.submit(job_ids).result(60)

    assert summary.succeeded == 20
    assert rig.table.calls.count("find_past") == 1
    assert kinds(rig, job_ids) == {Reused}
    assert rig.engine.sizes == []


def test_one_that_is_not_known_goes_through_the_model_as_any_other(rig: Rig) -> None:
    first = occupied(rig)
    job_ids = [*reusing(rig, 3), *rig.table.queue_same(2)]
    future = held(rig, job_ids)
    rig.engine.may_go.set()
    first.result(60)
    future.result(60)

    assert kinds(rig, job_ids) == {Succeeded}
    assert rig.engine.sizes == [1, 1]
    assert rig.engine.scored == []  # the option is none of the model's
    assert shared(rig) == 4


def test_another_version_is_asked_for_after_a_switch(rig: Rig) -> None:
    rig.table.past[KEY, 1] = PAST
    rig.residents.switch(rig.resident(2, GreyEngine()))
    job_ids = reusing(rig, 2)
    rig.submit(job_ids).result(60)

    assert kinds(rig, job_ids) == {Succeeded}


def test_pinned_jobs_are_answered_by_the_past_of_their_version(rig: Rig) -> None:
    rig.table.past[KEY, 2] = PAST
    pinned, active = reusing(rig, 3, pinned="grey/2"), reusing(rig, 2)
    rig.submit([*pinned, *active]).result(60)

    assert (kinds(rig, pinned), kinds(rig, active)) == ({Reused}, {Succeeded})
    outcomes = [rig.table.outcomes[job_id] for job_id in pinned]
    assert {one.model_id for one in outcomes if isinstance(one, Reused)} == {2}
    [second] = rig.loaded
    assert second.sizes == []
    eventually(lambda: rig.residents._in_hand[rig.residents._pinned["grey/2"]] == 0, what="none is in hand")


@pytest.mark.parametrize("pinned", [None, "grey/2"])
def test_what_the_past_says_to_one_is_not_told_to_those_who_do_not_ask(rig: Rig, pinned: str | None) -> None:
    """Whose past it was is known of the asking job alone."""
    rig.table.past = {(KEY, 1): PAST, (KEY, 2): PAST}
    asking, plain = reusing(rig, 1, pinned=pinned), rig.table.queue_same(2, pinned=pinned)
    rig.submit([*asking, *plain]).result(60)

    assert (kinds(rig, asking), kinds(rig, plain)) == ({Reused}, {Succeeded})


def test_a_suspect_is_answered_too_and_comes_near_no_process(rig: Rig) -> None:
    rig.table.past[KEY, 1] = PAST
    [job_id] = reusing(rig, 1)
    rig.table.crashes[job_id] = 2
    rig.submit([job_id]).result(60)

    assert kinds(rig, [job_id]) == {Reused}
    assert rig.isolation.ran == []


def test_an_outage_while_it_is_looked_up_is_waited_out(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("alexq_worker.pipeline.flow.RETRY_S", 0.01)
    rig.table.past[KEY, 1] = PAST
    find_past = rig.table.find_past
    asked: list[int] = []

    def is_away(claims: object, model_id: int) -> list[Reused]:
        asked.append(1)
        if len(asked) < 3:
            rig.table.outages = 1
        return find_past(claims, model_id)  # type: ignore[arg-type]

    monkeypatch.setattr(rig.table, "find_past", is_away)
    job_ids = reusing(rig, 2)
    rig.submit(job_ids).result(60)

    assert len(asked) == 3
    assert kinds(rig, job_ids) == {Reused}


def test_draining_while_the_database_is_away_gives_them_back(rig: Rig) -> None:
    def is_away(claims: object, model_id: int) -> list[Reused]:
        rig.table.outages = 1
        rig.table._answer("find_past")
        return []

    rig.table.find_past = is_away  # type: ignore[method-assign]
    job_ids = reusing(rig, 2)
    future = claimed(rig, job_ids)
    assert rig.pipeline.stop(60)

    assert future.result(60).given_back == 2
    assert sorted(rig.table.released) == sorted(job_ids)
