"""Counts by minute: what is read again replaces what was known, and nothing is counted twice."""

from __future__ import annotations

from itertools import pairwise

from alexq_monitor.history import KEPT, Counts, History, Piece, open_from
from alexq_schema.db.minutes import Ended
from alexq_schema.job import JobState

NOW = 29_000_000


def ended(succeeded: int = 0, failed: int = 0, unnumbered: int = 0) -> Ended:
    states = {JobState.SUCCEEDED: succeeded, JobState.FAILED: failed, JobState.CANCELLED: 1}
    return Ended(states, batches=succeeded / 8, images=succeeded, unnumbered=unnumbered)


def test_reading_a_minute_again_replaces_it() -> None:
    history = History()
    history.put(Piece(NOW, NOW + 1, {NOW: ended(5)}, NOW - 1, {NOW - 1: 3, NOW: 9}))
    history.put(Piece(NOW, NOW + 1, {NOW: ended(7, 2)}, NOW, {}))

    assert history.counts(NOW, NOW + 1) == Counts(
        came_in=0, succeeded=7, failed=2, ended=10, batches=7 / 8, images=7
    )
    assert history.counts(NOW - 1, NOW) == Counts(came_in=3)
    assert history.states(NOW - 1, NOW + 1) == {
        JobState.SUCCEEDED: 7,
        JobState.FAILED: 2,
        JobState.CANCELLED: 1,
        JobState.DEAD: 0,
        JobState.EXPIRED: 0,
    }


def test_jobs_whose_id_names_no_time_came_in_when_they_ended() -> None:
    history = History()
    history.put(Piece(NOW, NOW + 1, {NOW: ended(5, unnumbered=4)}, NOW, {NOW: 2}))
    assert history.counts(NOW, NOW + 1).came_in == 6


def test_a_chart_has_whole_steps_and_the_present_in_the_last() -> None:
    history = History()
    history.put(Piece(NOW - 40, NOW + 1, {NOW: ended(1), NOW - 20: ended(2)}, NOW - 40, {}))

    series = history.series(NOW, step=15, points=4)

    firsts = [first for first, _ in series]
    assert all(first % 15 == 0 for first in firsts)
    assert firsts[-1] <= NOW < firsts[-1] + 15
    assert [b - a for a, b in pairwise(firsts)] == [15, 15, 15]
    assert sum(counts.succeeded for _, counts in series) == 3
    assert series[-1][1].succeeded == 1


def test_what_is_older_than_a_week_is_forgotten() -> None:
    history = History()
    history.put(Piece(NOW - KEPT - 5, NOW, {NOW - KEPT - 1: ended(9)}, NOW - KEPT - 5, {NOW - KEPT - 1: 9}))
    history.forget_before(NOW - KEPT)
    assert history.known_from == NOW - KEPT
    assert history.counts(NOW - KEPT - 5, NOW) == Counts()


def test_a_look_at_the_present_reads_only_open_minutes_and_never_much() -> None:
    assert open_from(History(closed_until=NOW - 1), NOW) == NOW - 1
    assert open_from(History(closed_until=0), NOW) == NOW - 10
