"""Identical images in flight are computed once, and each job gets its own outcome."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future
from uuid import UUID

import pytest

from alexq_schema.errors import ModelNotFoundError
from alexq_schema.ids import new_id
from alexq_schema.names import Lane
from alexq_schema.work import Claim, Errored, Failed, Late, Outcome, Succeeded
from alexq_worker.pipeline.flow import Item
from alexq_worker.pipeline.sharing import Sharing
from alexq_worker.pipeline.ticket import Summary, Ticket
from tests.helpers.eventually import eventually
from tests.unit.pipeline.test_pipeline import (
    MAX_BATCH,
    Committed,
    GreyEngine,
    Rig,
    hold_decoders,
    models_of,
    with_options,
)


def occupied(rig: Rig) -> Future[Summary]:
    """Give the device a batch that it keeps until the test lets it go."""
    rig.engine.may_go.clear()
    first = rig.submit(rig.table.queue(1, "200"))
    eventually(lambda: rig.engine.sizes == [1], what="the device is busy")
    return first


def claimed(rig: Rig, job_ids: Sequence[UUID], lane: Lane = Lane.BULK) -> Future[Summary]:
    """Submit, and return when all are claimed."""
    future = rig.submit(job_ids, lane)
    eventually(
        lambda: set(job_ids) <= rig.pipeline._flow.held | set(rig.table.outcomes), what="they are claimed"
    )
    return future


def held(rig: Rig, job_ids: Sequence[UUID], lane: Lane = Lane.BULK) -> Future[Summary]:
    """Submit, and return when all are claimed, and follow whom they follow."""
    future = claimed(rig, job_ids, lane)
    rig.submit([new_id()]).result(60)  # the claimer is one thread: it has done with them when it takes others
    return future


def shared(rig: Rig) -> int:
    return sum(batch.shared for report in rig.reports for batch in report.batches)


def test_jobs_of_one_image_are_decoded_and_inferred_once_and_each_is_answered(rig: Rig) -> None:
    first = occupied(rig)
    futures = [held(rig, rig.table.queue_same(4, "7")), held(rig, rig.table.queue_same(3, "7"))]
    other = held(rig, rig.table.queue_same(2, "9"))
    eventually(lambda: rig.waiting() == 2, what="both are decoded")
    rig.engine.may_go.set()
    for future in (first, *futures, other):
        future.result(60)

    assert rig.engine.sizes == [1, 2]
    assert shared(rig) == 7
    assert [future.result(0).succeeded for future in futures] == [4, 3]
    outcomes = list(rig.table.outcomes.items())
    assert all(job_id == outcome.claim.job_id for job_id, outcome in outcomes)
    made = [outcome for _, outcome in outcomes if isinstance(outcome, Succeeded)]
    assert [one.predictions.label for one in made].count("grey 7") == 7
    sizes = Counter(one.batch_size for one in made if one.predictions.label != "grey 200")
    assert sizes == {2: 2, None: 7}  # so that batches can be counted by the rows
    assert {one.model_id for one in made} == {1}


def test_one_that_comes_while_the_device_has_the_image_is_answered_with_it(rig: Rig) -> None:
    rig.engine.may_go.clear()
    first = rig.submit(rig.table.queue_same(1))
    eventually(lambda: rig.engine.sizes == [1], what="the device has it")
    second = held(rig, rig.table.queue_same(1))
    rig.engine.may_go.set()

    assert [future.result(60).succeeded for future in (first, second)] == [1, 1]
    assert (rig.engine.sizes, shared(rig)) == ([1], 1)


def test_one_that_comes_after_the_outcome_is_computed_anew(rig: Rig) -> None:
    for _ in range(2):
        rig.submit(rig.table.queue_same(1)).result(60)

    assert (rig.engine.sizes, shared(rig)) == ([1, 1], 0)


@pytest.mark.parametrize(
    ("image", "kind", "code"),
    [("corrupt", Failed, "image_corrupt"), ("lost", Errored, "image_lost"), ("bug", Errored, "failed")],
)
def test_what_is_wrong_with_an_image_is_told_of_each_of_its_jobs(
    rig: Rig, image: str, kind: type, code: str
) -> None:
    rig.decoder.may_go.clear()
    stopped = held(rig, rig.table.queue(2))  # keeps the decoders
    bad = rig.table.queue_same(3, image)
    future = held(rig, bad)
    rig.decoder.may_go.set()
    stopped.result(60)

    assert future.result(60).claimed == 3
    for job_id in bad:
        outcome = rig.table.outcomes[job_id]
        assert isinstance(outcome, kind)
        assert isinstance(outcome, Failed | Errored)
        assert (outcome.claim.job_id, outcome.code) == (job_id, code)


def test_the_models_failure_on_an_image_charges_each_of_its_jobs_and_no_other(rig: Rig) -> None:
    first = occupied(rig)
    rig.engine.cannot = 13
    bad, good = rig.table.queue_same(3, "13"), rig.table.queue_same(3, "7")
    futures = [held(rig, bad), held(rig, good)]
    eventually(lambda: rig.waiting() == 2, what="both are decoded")
    rig.engine.may_go.set()
    for future in (first, *futures):
        future.result(60)

    assert {type(rig.table.outcomes[job_id]) for job_id in bad} == {Errored}
    assert {type(rig.table.outcomes[job_id]) for job_id in good} == {Succeeded}
    assert rig.engine.checks == 1


def test_a_device_out_of_memory_answers_followers_with_the_smaller_batch(rig: Rig) -> None:
    rig.engine.memory = 1
    first = occupied(rig)
    futures = [held(rig, rig.table.queue_same(3, str(value))) for value in (1, 2, 3)]
    eventually(lambda: rig.waiting() == 3, what="all are decoded")
    rig.engine.may_go.set()
    for future in (first, *futures):
        future.result(60)

    assert all(isinstance(outcome, Succeeded) for outcome in rig.table.outcomes.values())
    assert len(rig.table.outcomes) == 10
    assert shared(rig) == 6


def test_only_plain_jobs_share(rig: Rig) -> None:
    first = occupied(rig)
    job_ids = rig.table.queue_same(4)
    crashed, errored, hurried, plain = job_ids
    rig.table.crashes[crashed] = 1
    rig.table.errors[errored] = 1
    rig.table.left_s[hurried] = 60.0
    future = held(rig, job_ids)
    rig.engine.may_go.set()
    first.result(60)
    future.result(60)

    assert shared(rig) == 0
    assert sum(rig.engine.sizes) == 1 + 3
    assert [claim.job_id for claim in rig.isolation.ran] == [crashed]
    assert all(isinstance(rig.table.outcomes[job_id], Succeeded) for job_id in (errored, hurried, plain))


def test_a_job_that_expires_takes_nobody_along(rig: Rig) -> None:
    first = occupied(rig)
    late, plain = rig.table.queue_same(2)
    rig.table.left_s[late] = 0.0
    future = held(rig, [late, plain])
    rig.engine.may_go.set()
    first.result(60)
    future.result(60)

    assert isinstance(rig.table.outcomes[late], Late)
    assert isinstance(rig.table.outcomes[plain], Succeeded)


def test_jobs_with_other_options_or_another_version_do_not_share(rig: Rig) -> None:
    first = occupied(rig)
    job_ids = rig.table.queue_same(5, "10")
    rig.table.options = {job_ids[1]: {"top_k": 2}, job_ids[2]: {"top_k": 2}, job_ids[3]: {"top_k": 3}}
    rig.table.pinned[job_ids[4]] = "grey/2"
    future = held(rig, job_ids)
    rig.engine.may_go.set()
    first.result(60)
    future.result(60)

    assert shared(rig) == 1  # the two that want the same
    assert models_of(rig).count(2) == 1


def test_jobs_pinned_to_one_version_share_even_while_it_is_loaded(rig: Rig) -> None:
    rig.may_load.clear()
    futures = [held(rig, rig.table.queue_same(2, pinned="grey/2")) for _ in range(3)]
    rig.may_load.set()
    for future in futures:
        future.result(60)

    [second] = rig.loaded
    assert sum(second.sizes) + shared(rig) == 6
    assert sum(second.sizes) <= 2  # those that came while it was loaded are looked at together
    assert models_of(rig) == [2] * 6
    # The device's thread leaves a version after it has told of the batch.
    eventually(lambda: rig.residents._in_hand[rig.residents._pinned["grey/2"]] == 0, what="none is in hand")


def test_a_version_that_cannot_be_had_ends_followers_too(rig: Rig) -> None:
    rig.wrong["grey/2"] = ModelNotFoundError("no model grey/2")
    rig.may_load.clear()
    bad = rig.table.queue_same(3, pinned="grey/2")
    future = held(rig, bad)
    rig.may_load.set()
    future.result(60)

    assert {type(rig.table.outcomes[job_id]) for job_id in bad} == {Failed}


def test_a_job_that_is_claimed_after_a_switch_is_not_answered_by_the_version_before(rig: Rig) -> None:
    rig.engine.may_go.clear()
    before = rig.table.queue_same(2)
    first = rig.submit(before)
    eventually(lambda: rig.engine.sizes == [1], what="the device has it")
    new = GreyEngine()
    rig.residents.switch(rig.resident(2, new))
    after = rig.table.queue_same(2)
    second = held(rig, after)
    rig.engine.may_go.set()
    first.result(60)
    second.result(60)

    by = {job_id: o.model_id for job_id, o in rig.table.outcomes.items() if isinstance(o, Succeeded)}
    assert by == dict.fromkeys(before, 1) | dict.fromkeys(after, 2)
    assert rig.engine.is_closed


def test_followers_of_one_that_was_claimed_before_a_switch_say_which_version_made_it(rig: Rig) -> None:
    rig.decoder.may_go.clear()
    stopped = held(rig, rig.table.queue(2))  # keeps the decoders
    same = rig.table.queue_same(3)
    future = held(rig, same)
    rig.residents.switch(rig.resident(2, GreyEngine()))
    rig.decoder.may_go.set()
    stopped.result(60)
    future.result(60)

    by = {
        o.model_id for job_id, o in rig.table.outcomes.items() if job_id in same and isinstance(o, Succeeded)
    }
    assert by == {2}


def test_an_interactive_job_does_not_wait_for_the_place_of_a_bulk_job(rig: Rig) -> None:
    one_at_a_time = hold_decoders(rig)
    bulk = held(rig, [*rig.table.queue(3 * MAX_BATCH - 1, "1"), *rig.table.queue_same(1, "2")])
    eventually(lambda: rig.decoder.begun == [b"1"] * 2, what="the decoders are busy")
    [single] = rig.table.queue_same(1, "2")
    interactive = held(rig, [single], Lane.INTERACTIVE)
    late = held(rig, rig.table.queue_same(2, "2"))  # bulk again: it follows the one that is in front
    eventually(lambda: rig.pipeline._items.qsize() == 3 * MAX_BATCH - 1, what="the others wait for them")
    one_at_a_time.release()
    eventually(lambda: len(rig.decoder.begun) == 3, what="the next is begun")
    assert rig.decoder.begun[-1] == b"2"
    one_at_a_time.release(3 * MAX_BATCH)
    for future in (interactive, bulk, late):
        future.result(60)

    assert shared(rig) == 2


def test_draining_gives_back_the_followers_of_what_is_not_decoded_and_finishes_the_others(rig: Rig) -> None:
    first = occupied(rig)
    decoded = held(rig, rig.table.queue_same(3, "7"))
    eventually(lambda: rig.waiting() == 1, what="one is decoded")
    rig.decoder.may_go.clear()
    stopped = held(rig, rig.table.queue(2))  # keeps the decoders
    eventually(lambda: len(rig.decoder.begun) == 4, what="the decoders have them")
    waiting = rig.table.queue_same(4, "9")
    given_back = held(rig, waiting)
    rig.pipeline.drain()
    rig.decoder.may_go.set()
    rig.engine.may_go.set()

    assert rig.pipeline.stop(60)
    assert [future.result(60).succeeded for future in (first, decoded, stopped)] == [1, 3, 2]
    assert given_back.result(60).given_back == 4
    assert sorted(rig.table.released) == sorted(waiting)
    assert rig.pipeline._flow.in_flight == 0


def test_followers_count_as_jobs_that_are_held(rig: Rig) -> None:
    first = occupied(rig)
    future = held(rig, rig.table.queue_same(rig.pipeline.capacity - 1))
    assert rig.pipeline.room(Lane.BULK) == 0
    rig.engine.may_go.set()
    first.result(60)
    future.result(60)

    assert eventually(lambda: rig.pipeline.room(Lane.BULK) == rig.pipeline.capacity)


def test_nobody_joins_an_outcome_that_is_being_committed(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    may_commit, is_committing = threading.Event(), threading.Event()
    commit = rig.table.commit

    def waits(outcomes: Sequence[Outcome]) -> Committed:
        is_committing.set()
        assert may_commit.wait(60)
        return commit(outcomes)

    monkeypatch.setattr(rig.table, "commit", waits)
    first = rig.submit(rig.table.queue_same(1))
    assert is_committing.wait(60)
    second = held(rig, rig.table.queue_same(1))
    may_commit.set()

    assert [future.result(60).succeeded for future in (first, second)] == [1, 1]
    assert (sum(rig.engine.sizes), shared(rig)) == (2, 0)


def test_options_that_cannot_be_read_are_told_of_followers_too(rig: Rig) -> None:
    rig.decoder.may_go.clear()
    stopped = held(rig, rig.table.queue(2))
    leader, follower = with_options(rig, "10", new=[1]), with_options(rig, "10", new=[1])
    rig.table.queued[follower] = rig.table.queued[leader]
    future = held(rig, [leader, follower])
    rig.decoder.may_go.set()
    stopped.result(60)
    future.result(60)

    assert [type(rig.table.outcomes[job_id]) for job_id in (leader, follower)] == [Errored, Errored]


class Counting(dict[object, Item]):
    """Counts how often it is asked."""

    asked = 0

    def get(self, key: object, default: Item | None = None) -> Item | None:  # type: ignore[override]
        self.asked += 1
        return super().get(key, default)


@pytest.mark.parametrize("count", [1, 1_000])
def test_joining_costs_a_job_one_look(count: int) -> None:
    sharing = Sharing()
    sharing._leaders = leaders = Counting()
    ticket = Ticket((), Lane.BULK)
    items = [Item(Claim(new_id(), 1, None, "task", "source", f"{n:064x}"), ticket) for n in range(count)]

    assert sharing.join(items, 1) == items
    assert leaders.asked == count
    sharing.close(items)
    assert leaders.asked == 2 * count
    assert leaders == {}
