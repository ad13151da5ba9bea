"""The scenarios, in the order of the report."""

from __future__ import annotations

from benchmarks.chaos.scenarios.registry import SCENARIOS, Scenario, scenario

# Each module adds its own.
from benchmarks.chaos.scenarios import workers  # isort: skip
from benchmarks.chaos.scenarios import brokers  # isort: skip
from benchmarks.chaos.scenarios import databases  # isort: skip
from benchmarks.chaos.scenarios import failpoints  # isort: skip
from benchmarks.chaos.scenarios import timing  # isort: skip
from benchmarks.chaos.scenarios import poison  # isort: skip

__all__ = [
    "SCENARIOS",
    "Scenario",
    "brokers",
    "databases",
    "failpoints",
    "poison",
    "scenario",
    "timing",
    "workers",
]
