"""When a failed delivery is tried again."""

from __future__ import annotations

from random import Random

import pytest

from alexq_producer.webhooks.pace import JITTER, Pace

PACE = Pace()
HOUR_S = 3600.0


class Extreme(Random):
    """Draws one end of every range."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self._share = share

    def uniform(self, a: float, b: float) -> float:
        return a + (b - a) * self._share


def test_ten_attempts_take_about_75_hours() -> None:
    def total_s(random: Random) -> float:
        return sum(PACE.pause_s(failures, None, random) or 0.0 for failures in range(1, 10))

    assert PACE.pause_s(10, None, Random(1)) is None  # the tenth was the last
    assert total_s(Extreme(0.5)) == pytest.approx(75.6 * HOUR_S, rel=0.001)
    assert all(60 * HOUR_S < total_s(Random(seed)) < 91 * HOUR_S for seed in range(100))


def test_each_pause_is_the_schedules_give_or_take_the_jitter() -> None:
    for failures, pause_s in enumerate(PACE.pauses_s, start=1):
        drawn = [PACE.pause_s(failures, None, Random(seed)) or 0.0 for seed in range(200)]
        assert all(pause_s * (1 - JITTER) <= one <= pause_s * (1 + JITTER) for one in drawn)
        assert len(set(drawn)) > 100
    assert list(PACE.pauses_s) == sorted(PACE.pauses_s)


def test_a_receiver_may_ask_for_more_time_but_not_for_less_or_for_ever() -> None:
    random = Extreme(0.5)
    assert PACE.pause_s(1, 120.0, random) == 120.0
    assert PACE.pause_s(2, 1.0, random) == 300.0
    assert PACE.pause_s(1, 1e9, random) == 24 * HOUR_S
    assert PACE.pause_s(10, 120.0, random) is None


def test_the_lease_outlasts_an_attempt() -> None:
    assert PACE.lease_s > 2 * PACE.timeout_s
