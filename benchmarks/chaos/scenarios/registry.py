"""What a scenario is, and the list of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from benchmarks.chaos.campaign import Campaign
from benchmarks.chaos.scene import Scene

Body = Callable[[Scene], None]


@dataclass(frozen=True)
class Scenario:
    """A fault under load: made into a :class:`Scene` of its own, run, judged."""

    name: str
    body: Body
    database: Literal["sqlite", "postgresql"]
    options: dict[str, Any]
    """Further arguments of :class:`Scene`: ``aof`` and settings."""
    cost_s: float
    """About how long it takes in the short profile: long ones begin first."""

    @property
    def about(self) -> str:
        """The first line of its description."""
        return (self.body.__doc__ or "").strip().splitlines()[0]

    def stage(self, campaign: Campaign) -> Scene:
        """Start its servers."""
        return Scene(campaign, self.name, database=self.database, **self.options)


SCENARIOS: dict[str, Scenario] = {}


def scenario(
    name: str, *, cost_s: float, database: Literal["sqlite", "postgresql"] = "sqlite", **options: Any
) -> Callable[[Body], Body]:
    """Add a function to the scenarios; it brings about the fault and calls ``scene.finish``."""

    def add(body: Body) -> Body:
        SCENARIOS[name] = Scenario(name, body, database, options, cost_s)
        return body

    return add
