"""What the overview says, and in which order."""

from __future__ import annotations

import pytest

from alexq_monitor.advice import Advice, Severity, Situation, advise, drain_s

FLOWING = Situation(
    waiting=1_000, oldest_s=5.0, running=64, in_per_s=50.0, out_per_s=100.0, workers=2, last_seen_s=0.4,
    succeeded=10_000, failed=100,
)  # fmt: skip


def changed(**values: object) -> Situation:
    given = {name: getattr(FLOWING, name) for name in Situation.__slots__}
    return Situation(**{**given, **values})


def said(situation: Situation) -> list[str]:
    return [one.what for one in advise(situation)]


def test_where_all_is_well_it_says_so_and_when_the_queue_will_be_empty() -> None:
    (one,) = advise(FLOWING)
    assert one.severity is Severity.FINE
    assert one.what == (
        "All is well: work is flowing. The queue holds 1,000, and will be empty in about 20 s."
    )


def test_an_empty_system_says_how_to_begin() -> None:
    (one,) = advise(Situation(workers=1, last_seen_s=1.0, is_empty=True))
    assert "Nothing has been submitted yet" in one.what
    assert "alexq submit" in one.todo


def test_an_empty_system_says_how_to_begin_whatever_else_is_to_say() -> None:
    assert said(Situation(is_empty=True)) == [
        "No worker has ever reported.",
        "Nothing has been submitted yet.",
    ]


def test_without_workers_it_says_since_when_and_how_to_start_one() -> None:
    (one,) = advise(changed(workers=0, last_seen_s=40.2))
    assert one.severity is Severity.BAD
    assert one.what == "No worker has reported for 40 s, and 1,064 jobs wait."
    assert "`alexq worker" in one.todo


def test_that_no_worker_ever_came_is_no_alarm_where_nothing_waits() -> None:
    (one,) = advise(Situation())
    assert (one.severity, one.what) == (Severity.WARNING, "No worker has ever reported.")


def test_a_growing_queue_says_how_many_workers_are_missing() -> None:
    (one,) = advise(changed(in_per_s=190.0, wanted_workers=4))
    assert "grows faster than it drains: 190 jobs/s come in, 100 are done" in one.what
    assert one.todo == "Add 2 workers like those there are."


def test_where_as_many_work_as_there_may_be_no_number_is_named() -> None:
    (one,) = advise(changed(in_per_s=190.0, wanted_workers=2))
    assert one.todo == "If it goes on, add a worker."


def test_a_queue_of_less_than_a_batch_does_not_grow() -> None:
    assert advise(changed(in_per_s=190.0, waiting=10))[0].severity is Severity.FINE


def test_waiting_jobs_and_idle_workers_are_an_alarm() -> None:
    (one,) = advise(changed(out_per_s=0.0, oldest_s=75.0))
    assert one.severity is Severity.BAD
    assert "1,000 jobs wait, the oldest for 1 min 15 s, and nothing was done" in one.what
    assert "alexq doctor" in one.todo


def test_workers_that_miss_their_beats_are_said_before_they_count_as_gone() -> None:
    assert said(changed(last_seen_s=6.0, is_quiet=True)) == ["No worker has shown itself for 6.0 s."]
    assert said(changed(workers=0, last_seen_s=12.0, is_quiet=True)) == [
        "No worker has reported for 12 s, and 1,064 jobs wait."
    ]


def test_dead_jobs_say_of_what_and_where_to_look() -> None:
    (one,) = advise(changed(dead=120, dead_code="image_lost", dead_of_code=120, dead_looked_at=120))
    assert one.what == "120 jobs are dead of image_lost."
    assert one.page == "dead"
    assert said(changed(dead=120, dead_code="image_lost", dead_of_code=100, dead_looked_at=120)) == [
        "120 jobs are dead, 100 of them of image_lost."
    ]
    assert said(changed(dead=12_000, dead_code="image_lost", dead_of_code=100, dead_looked_at=10_000)) == [
        "12,000 jobs are dead, 100 of the newest 10,000 of image_lost."
    ]


def test_many_failures_are_worth_a_look_and_few_images_no_share() -> None:
    assert said(changed(succeeded=700, failed=300)) == [
        "30.0 % of the images of the last hour have no result (300 of 1,000)."
    ]
    assert advise(changed(succeeded=7, failed=3))[0].severity is Severity.FINE


@pytest.mark.parametrize(
    ("values", "what"),
    [
        ({"silent": ("a:1", "b:2", "c:3", "d:4")},
         "4 workers fell silent without a goodbye: a:1, b:2, c:3 and 1 more"),
        ({"unhealthy": (("a:1", "the device hung"),)},
         "The worker a:1 could not get on and ended: the device hung"),
        ({"untrained": ("alexnet/seed0",)}, "alexnet/seed0 is served untrained: its labels mean nothing"),
        ({"broker_error": "refused"}, "The broker cannot be reached: refused"),
    ],
)  # fmt: skip
def test_each_trouble_is_named(values: dict[str, object], what: str) -> None:
    (one,) = advise(changed(**values))
    assert one.what == what + "."
    assert one.todo


def test_of_what_the_database_would_tell_nothing_is_said_while_it_is_away() -> None:
    (one,) = advise(Situation(database_error="it does not answer"))
    assert (one.severity, one.what) == (
        Severity.BAD, "The database cannot be read: it does not answer.",
    )  # fmt: skip


def test_the_worst_comes_first() -> None:
    everything = changed(
        workers=0, last_seen_s=90.0, dead=3, dead_code="x", dead_of_code=3, silent=("a:1",), broker_error="no"
    )
    severities = [one.severity for one in advise(everything)]
    assert severities == sorted(severities)
    assert severities[0] is Severity.BAD
    assert len(severities) == 4


def test_it_always_says_something() -> None:
    assert all(isinstance(one, Advice) for one in advise(Situation()))
    assert advise(Situation(workers=1, last_seen_s=0.0))[0].what == "All is well: nothing waits."


def test_a_queue_that_does_not_shrink_never_empties() -> None:
    assert drain_s(changed(in_per_s=100.0)) is None
    assert drain_s(changed(waiting=0)) == 0.0
    assert drain_s(FLOWING) == 20.0
