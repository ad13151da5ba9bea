"""What all scenarios share, and one line of their report."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from benchmarks.chaos.nursery import Nursery
from benchmarks.chaos.processes import Processes
from benchmarks.chaos.reference import Answers
from benchmarks.chaos.servers import PostgresBinaries

Profile = Literal["short", "full"]


@dataclass(frozen=True)
class Campaign:
    """What all scenarios share."""

    folder: Path
    answers: Answers
    postgres: PostgresBinaries
    sqlite_template: Path
    """A migrated database with the audit in it; so is the next, a cluster's data folder."""
    postgres_template: Path
    processes: Processes
    profile: Profile
    seed: int
    nursery: Nursery
    jobs_scale: float = 1.0


@dataclass
class Row:
    """One line of the report."""

    scenario: str
    system: str = "alexq"
    database: str = ""
    jobs: int = 0
    lost: int = 0
    duplicated: int = 0
    wrong: int = 0
    recovery_s: dict[str, float] = field(default_factory=dict)
    """p50, p99, max and count; empty where it does not apply."""
    recovery_of: str = ""
    """What was timed."""
    duration_s: float = 0.0
    broken: list[str] = field(default_factory=list)
    """Promises of the scenario that did not hold."""
    details: dict[str, Any] = field(default_factory=dict)
    dump: str = ""
    """State counts and last log lines, where something went wrong."""

    @property
    def is_good(self) -> bool:
        """Return whether nothing was lost, done twice, wrong, or promised and not kept."""
        return not (self.lost or self.duplicated or self.wrong or self.broken)


def percentiles(seconds: Sequence[float]) -> dict[str, float]:
    """Return p50, p99, max and count; empty for nothing."""
    if not seconds:
        return {}
    ordered = sorted(seconds)
    return {
        "p50": round(statistics.median(ordered), 2),
        "p99": round(ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))], 2),
        "max": round(ordered[-1], 2),
        "count": len(ordered),
    }
