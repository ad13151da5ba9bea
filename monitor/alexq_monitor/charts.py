"""Charts as inline SVG, made of numbers alone: nothing in them needs to be escaped.

Colours are classes of ``alexq.css``, so that they follow the theme.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from alexq_monitor.history import Counts
from alexq_monitor.words import count, duration
from alexq_schema.db.minutes import start_of

WIDTH, HEIGHT = 600, 120


@dataclass(frozen=True, slots=True)
class Chart:
    """A drawing and the words around it."""

    svg: str
    title: str
    top: str
    """What the upper edge stands for."""
    begins: str
    ends: str
    summary: str


def flow(title: str, points: Sequence[tuple[int, Counts]], step: int) -> Chart:
    """Return the chart of what came in (a line), succeeded and failed (stacked bars), oldest first."""
    highest = max([1, *(max(one.came_in, one.succeeded + one.failed) for _, one in points)])
    width = WIDTH / len(points)
    bars: list[str] = []
    line: list[str] = []
    for number, (minute, one) in enumerate(points):
        x = number * width
        top = HEIGHT * (1 - (one.succeeded + one.failed) / highest)
        middle = HEIGHT * (1 - one.succeeded / highest)
        bars.append(f'<g class="alexq-bar"><title>{_said(minute, one)}</title>')
        bars.append(_rect("alexq-hit", x, 0, width, HEIGHT))
        bars.append(_rect("alexq-succeeded", x, middle, width * 0.86, HEIGHT - middle))
        bars.append(_rect("alexq-failed", x, top, width * 0.86, middle - top) + "</g>")
        y = HEIGHT * (1 - one.came_in / highest)
        line.append(f"{x:.1f},{y:.1f} {x + width:.1f},{y:.1f}")
    total = sum((one for _, one in points), Counts())
    summary = (
        f"{title}: {count(total.came_in)} came in, {count(total.succeeded)} succeeded, "
        f"{count(total.failed)} failed"
    )
    svg = (
        f'<svg class="alexq-chart" viewBox="0 0 {WIDTH} {HEIGHT}" preserveAspectRatio="none" role="img" '
        f'aria-label="{summary}">{"".join(bars)}<polyline class="alexq-in" points="{" ".join(line)}"/></svg>'
    )
    begins, ends = start_of(points[0][0]), start_of(points[-1][0] + step)
    return Chart(
        svg, title, f"{count(highest)} in {duration(step * 60)}", _at(begins, step), _at(ends, step), summary
    )


def columns(numbers: Sequence[tuple[str, float]], title: str) -> str:
    """Return a histogram: a column for each name and number; names come from us, never from outside."""
    highest = max([1e-9, *(number for _, number in numbers)])
    width = WIDTH / max(1, len(numbers))
    bars = []
    for place, (name, number) in enumerate(numbers):
        height = HEIGHT * number / highest
        bars.append(
            f'<g class="alexq-bar"><title>{name}: {count(number)}</title>'
            + _rect("alexq-hit", place * width, 0, width, HEIGHT)
            + _rect("alexq-plain", place * width + width * 0.07, HEIGHT - height, width * 0.86, height)
            + "</g>"
        )
    return (
        f'<svg class="alexq-chart" viewBox="0 0 {WIDTH} {HEIGHT}" preserveAspectRatio="none" role="img" '
        f'aria-label="{title}">{"".join(bars)}</svg>'
    )


def meter(parts: Sequence[tuple[str, float]], whole: float) -> str:
    """Return a bar of ``whole``, filled by parts of the given classes, left to right."""
    x = 0.0
    bars = []
    for name, part in parts:
        width = 100 * part / whole if whole else 0.0
        bars.append(f'<rect class="{name}" x="{x:.2f}" y="0" width="{width:.2f}" height="10"/>')
        x += width
    return (
        '<svg class="alexq-meter" viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true">'
        f'<rect class="alexq-empty" width="100" height="10"/>{"".join(bars)}</svg>'
    )


def _rect(name: str, x: float, y: float, width: float, height: float) -> str:
    return f'<rect class="{name}" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"/>'


def _said(minute: int, one: Counts) -> str:
    return (
        f"{start_of(minute):%a %H:%M}: {count(one.came_in)} in, {count(one.succeeded)} succeeded, "
        f"{count(one.failed)} failed"
    )


def _at(time: datetime, step: int) -> str:
    return f"{time:%d %b %H:%M}" if step >= 60 else f"{time:%a %H:%M}" if step >= 15 else f"{time:%H:%M}"
