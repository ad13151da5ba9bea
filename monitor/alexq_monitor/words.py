"""Numbers as people read them."""

from __future__ import annotations

import re
from datetime import datetime

from tornado.escape import xhtml_escape

from alexq_schema.db.workers import MemoryUse

MISSING = "–"

OTHERS = "_others"
"""Stands for queues that are not told apart; none is called so."""


def count(number: float | None) -> str:
    """Return a whole number with its thousands apart."""
    return MISSING if number is None else f"{round(number):,}"


def plural(number: int, one: str, many: str | None = None) -> str:
    """Return the number with its noun: ``1 job``, ``2,000 jobs``."""
    return f"{count(number)} {one if number == 1 else many or one + 's'}"


def duration(seconds: float | None) -> str:
    """Return a time span in its two largest units: ``340 ms``, ``40 s``, ``3 min 20 s``, ``2 h 5 min``."""
    if seconds is None:
        return MISSING
    if seconds < 1:
        return f"{seconds * 1000:.{0 if seconds >= 0.01 else 1}f} ms"
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for size, unit, smaller, small in (
        (86_400, "d", 3_600, "h"),
        (3_600, "h", 60, "min"),
        (60, "min", 1, "s"),
    ):
        if whole >= size:
            rest = whole % size // smaller
            return f"{whole // size} {unit}" + (f" {rest} {small}" if rest else "")
    return f"{whole} s"


def rate(per_s: float | None) -> str:
    """Return a rate per second."""
    if per_s is None:
        return MISSING
    return f"{per_s:,.0f}" if per_s >= 100 else f"{per_s:.1f}" if per_s >= 0.05 or per_s == 0 else "< 0.1"


def percent(share: float | None) -> str:
    """Return a share of 1 in per cent."""
    return MISSING if share is None else f"{share * 100:.1f} %"


def memory(use: MemoryUse | None) -> str:
    """Return how full a memory is: ``1.2 of 23.6 GB``."""
    return MISSING if use is None else f"{use.used_bytes / 1e9:.1f} of {use.total_bytes / 1e9:.1f} GB"


def queue(name: str) -> str:
    """Return what a queue is called."""
    return "others" if name == OTHERS else name or "(default)"


def clock(time: datetime | None) -> str:
    """Return a time of day, in UTC."""
    return MISSING if time is None else f"{time:%Y-%m-%d %H:%M:%S}"


def coded(text: str) -> str:
    """Return text as HTML, escaped, in which what stands in backquotes is code."""
    parts = re.split(r"`([^`]*)`", text)
    return "".join(
        f"<code>{xhtml_escape(part)}</code>" if number % 2 else xhtml_escape(part)
        for number, part in enumerate(parts)
    )
