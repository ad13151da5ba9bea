"""Numbers as people read them, and text that must stay text."""

from __future__ import annotations

import pytest

from alexq_monitor import words
from alexq_schema.db.workers import MemoryUse


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (None, "–"), (0.0034, "3.4 ms"), (0.34, "340 ms"), (1.0, "1.0 s"), (9.96, "10.0 s"), (40.4, "40 s"),
        (60, "1 min"), (200, "3 min 20 s"), (3_600, "1 h"), (7_500, "2 h 5 min"), (90_000, "1 d 1 h"),
    ],
)  # fmt: skip
def test_a_time_span_is_said_in_its_largest_units(seconds: float | None, said: str) -> None:
    assert words.duration(seconds) == said


@pytest.mark.parametrize(
    ("per_s", "said"), [(None, "–"), (0.0, "0.0"), (0.01, "< 0.1"), (3.14, "3.1"), (1_234.5, "1,234")]
)
def test_a_rate_is_as_exact_as_it_matters(per_s: float | None, said: str) -> None:
    assert words.rate(per_s) == said


def test_a_memory_is_said_in_gigabytes() -> None:
    assert words.memory(MemoryUse(1_260_000_000, 24_050_000_000)) == "1.3 of 24.1 GB"
    assert words.memory(None) == "–"


def test_one_is_not_many() -> None:
    assert words.plural(1, "job") == "1 job"
    assert words.plural(2_000, "job") == "2,000 jobs"
    assert words.plural(3, "crash", "crashes") == "3 crashes"


def test_what_stands_in_backquotes_is_code_and_all_of_it_is_escaped() -> None:
    assert words.coded("run `alexq <b>` & <i>") == "run <code>alexq &lt;b&gt;</code> &amp; &lt;i&gt;"
