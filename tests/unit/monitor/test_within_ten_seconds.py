"""What goes away is said on an open page within ten seconds: the times that this is made of."""

from __future__ import annotations

import re

from alexq_monitor.look import STATIC
from alexq_monitor.overview import KEEP_S, MISSED_BEATS
from alexq_monitor.pages.base import REFRESH_S
from alexq_monitor.sources import BROKER_S, GRACE_S, STATEMENT_S
from alexq_schema.settings import Settings

LONGEST_S = 10.0
NEXT_LOOK_S = REFRESH_S + KEEP_S
"""From when something happens to the first look that can see it, at worst."""


def script_s() -> float:
    found = re.search(r"LONGEST_MS = (\d+);", (STATIC / "alexq.js").read_text())
    assert found
    return int(found[1]) / 1_000


def test_a_database_that_hangs() -> None:
    assert NEXT_LOOK_S + STATEMENT_S + GRACE_S <= LONGEST_S


def test_a_broker_that_hangs() -> None:
    assert NEXT_LOOK_S + 2 * BROKER_S <= LONGEST_S


def test_a_dashboard_that_hangs_but_not_one_that_waits_for_the_database() -> None:
    assert REFRESH_S + script_s() <= LONGEST_S
    assert script_s() > STATEMENT_S + GRACE_S


def test_workers_that_were_killed() -> None:
    assert MISSED_BEATS * Settings.load().heartbeat_s + NEXT_LOOK_S <= LONGEST_S
