"""What goes into a batch, and when."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alexq_schema.names import Lane
from alexq_worker.pipeline.policy import LAST, BatchPolicy, CostLine, Rank, rank


def test_the_cost_line_finds_slope_and_intercept() -> None:
    cost = CostLine()
    for images in (1, 8, 64, 32, 5):
        cost.observe(images, 0.010 + 0.004 * images)

    assert cost.estimate_s(1) == pytest.approx(0.014)
    assert cost.estimate_s(128) == pytest.approx(0.522)


def test_the_cost_line_of_one_size_is_a_rate_and_of_none_is_nothing() -> None:
    cost = CostLine()
    assert cost.estimate_s(10) == 0.0
    cost.observe(4, 0.2)

    assert cost.estimate_s(8) == pytest.approx(0.4)


def test_the_cost_line_forgets_a_device_that_was_slower() -> None:
    cost = CostLine()
    for number in range(600):
        slow = 10.0 if number < 200 else 1.0
        cost.observe(1 + number % 8, slow * 0.001 * (1 + number % 8))

    assert cost.estimate_s(8) == pytest.approx(0.008, rel=0.01)


@given(st.lists(st.tuples(st.integers(1, 512), st.floats(0, 10)), min_size=1))
def test_no_history_makes_an_estimate_negative(batches: list[tuple[int, float]]) -> None:
    cost = CostLine()
    for images, seconds in batches:
        cost.observe(images, seconds)

    assert cost.estimate_s(1) >= 0.0


@given(st.integers(0, 10_000), st.integers(1, 512), st.lists(st.integers(-1, 600)))
def test_a_free_device_takes_what_is_ready_and_never_more_than_the_limit(
    ready: int, max_batch: int, limits: list[int]
) -> None:
    policy = BatchPolicy(max_batch)
    for limit in limits:
        policy.lower(limit)

    size = policy.size_now(ready)

    assert 1 <= policy.limit <= max_batch
    assert size == min(ready, policy.limit)  # 0, to wait, only when nothing is ready


def test_interactive_jobs_come_first_then_the_oldest_and_ends_come_last() -> None:
    ordered = [rank(Lane.INTERACTIVE, 7), rank(Lane.INTERACTIVE, 9), rank(Lane.BULK, 1), rank(Lane.BULK, 2)]

    assert sorted([ordered[place] for place in (3, 1, 2, 0)]) == ordered
    assert max(ordered) < Rank(LAST, 0)


def test_a_job_is_late_when_its_decode_and_a_batch_take_longer_than_is_left() -> None:
    policy = BatchPolicy(64)
    assert policy.is_too_late(0.0, is_decoded=False)
    assert not policy.is_too_late(None, is_decoded=False)
    assert not policy.is_too_late(1e-6, is_decoded=False)  # nothing is known yet: it may try

    policy.observe_decode(0.004)
    for _ in range(3):
        policy.cost.observe(1, 0.020)

    assert policy.is_too_late(0.023, is_decoded=False)
    assert not policy.is_too_late(0.023, is_decoded=True)
    assert not policy.is_too_late(0.025, is_decoded=False)
