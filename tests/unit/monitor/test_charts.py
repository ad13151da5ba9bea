"""Charts are well-formed, to scale, and say what they show."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from alexq_monitor import charts
from alexq_monitor.history import Counts

MINUTE = 29_000_000


def rects(svg: str, name: str) -> list[dict[str, float]]:
    found = ElementTree.fromstring(svg).iter("rect")
    return [
        {key: float(one.attrib[key]) for key in ("x", "y", "width", "height")}
        for one in found
        if one.attrib["class"] == name
    ]


def test_bars_are_as_high_as_their_numbers_and_stand_on_one_another() -> None:
    chart = charts.flow("Last hour", [(MINUTE, Counts(10, 6, 2, 8)), (MINUTE + 1, Counts(4, 3, 0, 3))], 1)
    succeeded, failed = rects(chart.svg, "alexq-succeeded"), rects(chart.svg, "alexq-failed")
    assert [one["height"] for one in succeeded] == [pytest.approx(72), pytest.approx(36)]
    assert failed[0]["height"] == pytest.approx(24)
    assert failed[0]["y"] + failed[0]["height"] == pytest.approx(succeeded[0]["y"])
    assert chart.top == "10 in 1 min"
    assert chart.summary == "Last hour: 14 came in, 9 succeeded, 2 failed"
    assert ElementTree.fromstring(chart.svg).attrib["aria-label"] == chart.summary


def test_an_empty_chart_is_a_line_at_the_bottom() -> None:
    chart = charts.flow("Last hour", [(MINUTE + n, Counts()) for n in range(60)], 1)
    assert all(one["height"] == 0 for one in rects(chart.svg, "alexq-succeeded"))
    line = ElementTree.fromstring(chart.svg).find("polyline")
    assert line is not None
    assert {point.split(",")[1] for point in line.attrib["points"].split()} == {"120.0"}


def test_a_meter_is_filled_by_its_parts() -> None:
    svg = ElementTree.fromstring(charts.meter([("a", 1), ("b", 2)], 4))
    widths = [(one.attrib["class"], one.attrib.get("x"), one.attrib["width"]) for one in svg]
    assert widths == [("alexq-empty", None, "100"), ("a", "0.00", "25.00"), ("b", "25.00", "50.00")]
    assert charts.meter([("a", 0)], 0)


def test_a_histogram_has_a_column_for_each_number() -> None:
    svg = charts.columns([("1", 3), ("2", 0), ("3", 6)], "Batches by size")
    assert [one["height"] for one in rects(svg, "alexq-plain")] == [60, 0, 120]


def test_the_ends_of_a_week_are_told_apart() -> None:
    week = charts.flow("Last week", [(MINUTE + 120 * n, Counts()) for n in range(84)], 120)
    assert week.begins != week.ends
