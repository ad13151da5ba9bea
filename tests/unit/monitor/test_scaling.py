"""How many workers are wanted: properties, and what they come to in time."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from alexq_monitor.scaling import Autoscaler, Decision, Load, Policy, decide, needed
from alexq_schema.errors import SettingsError
from alexq_schema.names import Lane
from alexq_schema.settings import Settings
from benchmarks.scale_sim import LOOK_S, RATE, Ours, Outcome, Seen, simulate

POLICY = Policy(
    drain_s={Lane.INTERACTIVE: 10.0, Lane.BULK: 60.0},
    min_workers=0,
    max_workers=20,
    startup_s=60.0,
    down_after_s=120.0,
)
BUSY = Load(waiting={Lane.BULK: 60_000}, rate=100.0)

jobs = st.integers(0, 10_000_000)
workers = st.integers(0, 1_000)
loads = st.builds(
    Load,
    waiting=st.fixed_dictionaries(dict.fromkeys(Lane, jobs)),
    running=jobs,
    in_per_s=st.floats(0, 1e6),
    rate=st.none() | st.floats(0.01, 1e5),
    alive=workers,
    busy=workers,
    starting=workers,
)
policies = st.builds(
    Policy,
    drain_s=st.fixed_dictionaries({lane: st.floats(1, 3_600) for lane in Lane}),
    min_workers=st.integers(0, 10),
    max_workers=st.integers(10, 1_000),
    startup_s=st.floats(0, 600),
    down_after_s=st.floats(1, 600),
    rate=st.sampled_from([0.0, 50.0]),
)
histories = st.lists(st.builds(Decision, at_s=st.floats(0, 1_000), needed=workers, wanted=workers))


@given(policies, loads, histories)
def test_the_number_is_within_its_limits_and_not_below_those_who_work(
    policy: Policy, load: Load, recent: list[Decision]
) -> None:
    wanted = decide(policy, load, recent, 1_000.0).wanted
    assert policy.min_workers <= wanted <= policy.max_workers
    assert wanted >= min(load.busy, load.alive, policy.max_workers)


@given(policies, loads, histories, st.sampled_from(Lane), jobs)
def test_more_that_waits_never_wants_fewer(
    policy: Policy, load: Load, recent: list[Decision], lane: Lane, more: int
) -> None:
    longer = replace(load, waiting={**load.waiting, lane: load.waiting[lane] + more})
    assert decide(policy, longer, recent, 1_000.0).wanted >= decide(policy, load, recent, 1_000.0).wanted


@given(policies, loads)
def test_what_waits_is_worked_off_in_the_wanted_time_once_the_workers_are_there(
    policy: Policy, load: Load
) -> None:
    rate = load.rate or policy.rate
    assume(rate)
    count, jobs = needed(policy, load), 0
    for lane in Lane:
        jobs += load.waiting[lane]
        assert (count * rate - load.in_per_s) * policy.drain_s[lane] >= jobs * (1 - 1e-9)


def test_a_backlog_wants_as_many_as_work_it_off_in_time() -> None:
    assert needed(POLICY, BUSY) == 10
    assert needed(POLICY, replace(BUSY, in_per_s=200.0, alive=12)) == 12


def test_what_comes_in_while_workers_start_is_counted_once() -> None:
    load = Load(waiting={Lane.BULK: 3_000}, in_per_s=500.0, rate=100.0)
    first = needed(POLICY, load)
    assert first == 11  # 60 s of 500/s will wait when they are there
    grown = replace(load, waiting={Lane.BULK: 33_000}, starting=first)
    assert needed(POLICY, grown) <= first


def test_people_wait_less_than_submissions() -> None:
    assert needed(POLICY, Load(waiting={Lane.INTERACTIVE: 2_000}, rate=100.0)) == 2
    assert needed(POLICY, Load(waiting={Lane.BULK: 2_000}, rate=100.0)) == 1


def test_one_worker_shows_how_fast_it_is_where_nobody_knows() -> None:
    assert needed(POLICY, replace(BUSY, rate=None)) == 1
    assert needed(POLICY, replace(BUSY, rate=None, alive=3)) == 3
    assert needed(replace(POLICY, rate=100.0), replace(BUSY, rate=None)) == 10


def test_fewer_are_wanted_when_fewer_have_been_enough_for_a_while() -> None:
    scaler = Autoscaler(POLICY)
    assert scaler.decide(BUSY, 0.0) == 10
    done = Load(rate=100.0, alive=10)
    assert [scaler.decide(done, at_s) for at_s in (30.0, 60.0, 120.0)] == [10, 10, 10]
    assert scaler.decide(done, 121.0) == 0
    assert scaler.decide(Load(waiting={Lane.INTERACTIVE: 1}), 600.0) == 1, "and back, the rate remembered"


def test_who_decides_for_the_first_time_takes_nobody_away() -> None:
    scaler = Autoscaler(POLICY)
    idle = Load(alive=5)
    assert [scaler.decide(idle, at_s) for at_s in (0.0, 60.0, 121.0)] == [5, 5, 0]


def test_a_worker_in_the_middle_of_a_batch_is_kept() -> None:
    nearly_done = Load(running=30, rate=100.0, alive=10, busy=4)
    assert decide(POLICY, nearly_done, [Decision(0.0, 1, 1)], 15.0).wanted == 4


def followed(arrivals: list[int], startup_s: int) -> Outcome:
    """Follow the policy, told the rate, as an autoscaler would."""
    return simulate(arrivals, Ours(startup_s, RATE), startup_s)


@given(st.integers(1, 15 * RATE), st.sampled_from([1, 30, 120]))
def test_under_constant_load_the_number_settles(per_s: int, startup_s: int) -> None:
    outcome = followed([per_s] * 3_600, startup_s)
    settled = outcome.workers[1_800 // LOOK_S :]
    assert len(set(settled)) == 1
    assert per_s / RATE <= settled[0] <= per_s / RATE + 2


@given(st.integers(1, 100_000), st.sampled_from([1, 30, 120]))
def test_a_burst_is_worked_off_in_time_and_then_nobody_is_left(images: int, startup_s: int) -> None:
    outcome = followed([images] + [0] * 900, startup_s)
    assert outcome.max_s <= startup_s + 60 + 1
    assert outcome.workers[-1] == 0


def test_a_sample_of_the_simulator_is_what_it_says() -> None:
    seen: list[Seen] = []

    def two(now: Seen) -> int:
        seen.append(now)
        return 2

    outcome = simulate([300] * 60, two, startup_s=10)
    assert seen[0].waiting == 300
    assert (seen[1].waiting, seen[1].alive, seen[1].starting) == (16 * 300 - 5 * 200, 2, 0)
    assert outcome.max_s == 40.0  # the last came in second 59 and was done in the 90th of 200 each


def test_limits_that_exclude_each_other_are_refused() -> None:
    with pytest.raises(SettingsError, match="ALEXQ_SCALE_MIN_WORKERS"):
        Settings.load(scale_min_workers=3, scale_max_workers=2)
