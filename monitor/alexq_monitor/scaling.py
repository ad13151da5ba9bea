"""How many workers there should be: numbers in, a number out; no clock and no service.

Enough for what comes in steadily, and to work off what waits within the wanted time. More are wanted at once;
fewer only when fewer have been enough for a while, so that a number does not swing, and never fewer than
hold jobs at the moment. The highest need of a window is HPA's stabilisation, zero after a quiet one is
KEDA's cool-down; that a time to drain, and not a length, is wanted, is ours (docs/adr/0015).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Self

from alexq_schema.names import Lane
from alexq_schema.settings import Settings


@dataclass(frozen=True, slots=True)
class Policy:
    """What is wanted."""

    drain_s: Mapping[Lane, float]
    """Time in which what waits in a lane, and before it, is to be worked off once the workers are there."""
    min_workers: int
    max_workers: int
    startup_s: float
    """From the wish for a worker to its first job."""
    down_after_s: float
    """Time for which fewer must have been enough."""
    rate: float = 0.0
    """Jobs/s of one busy worker, to go by until it is measured; 0: the first worker shows it."""

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Return what the settings want."""
        return cls(
            {Lane.INTERACTIVE: settings.scale_interactive_drain_s, Lane.BULK: settings.scale_drain_s},
            settings.scale_min_workers,
            settings.scale_max_workers,
            settings.scale_startup_s,
            settings.scale_down_after_s,
            settings.scale_rate,
        )


@dataclass(frozen=True, slots=True)
class Load:
    """What there is to do, and who does it."""

    waiting: Mapping[Lane, int] = field(default_factory=dict)
    """Jobs that may be claimed now."""
    running: int = 0
    """Jobs that workers hold."""
    in_per_s: float = 0.0
    """What comes in steadily: a burst is in ``waiting``, and would count twice here."""
    rate: float | None = None
    """Jobs/s of one busy worker, as measured; None where it was not."""
    alive: int = 0
    busy: int = 0
    """Of these, workers that hold jobs."""
    starting: int = 0


@dataclass(frozen=True, slots=True)
class Decision:
    """What was decided once; its maker keeps those of the last ``down_after_s`` and hands them in again."""

    at_s: float
    needed: int
    """For the load of that moment."""
    wanted: int


def needed(policy: Policy, load: Load) -> int:
    """Return how many workers this load takes, whatever was before."""
    if not (load.running or load.in_per_s or any(load.waiting.values())):
        return 0
    rate = load.rate or policy.rate
    if not rate:
        return max(1, load.alive + load.starting)  # one shows how fast it is; of more nothing is known
    workers = _workers(policy, load, rate, 0.0)
    if workers <= load.alive + load.starting:
        return workers
    # More must start, and meanwhile more comes in than those who are there do.
    growth = policy.startup_s * max(0.0, load.in_per_s - load.alive * rate)
    return _workers(policy, load, rate, growth)


def _workers(policy: Policy, load: Load, rate: float, growth: float) -> int:
    jobs, per_s = 0.0, 0.0
    for lane in Lane:  # the one that goes first first
        jobs += load.waiting.get(lane, 0)
        per_s = max(per_s, jobs / policy.drain_s[lane])
    per_s = max(per_s, (jobs + load.running + growth) / policy.drain_s[Lane.BULK])
    return max(1, math.ceil((per_s + load.in_per_s) / rate))


def decide(policy: Policy, load: Load, recent: Sequence[Decision], at_s: float) -> Decision:
    """Return how many workers are wanted at ``at_s``, in seconds of any clock.

    Args:
        recent: earlier decisions; where there are none, nobody knows what was needed until now, and those who
            are alive count as needed.
    """
    need = needed(policy, load)
    lately = [one.needed for one in recent if 0 <= at_s - one.at_s <= policy.down_after_s]
    if not recent:
        need = max(need, load.alive)
    wanted = max(need, *lately, min(load.busy, load.alive))
    return Decision(at_s, need, max(policy.min_workers, min(policy.max_workers, wanted)))


class Autoscaler:
    """Decides again and again, and remembers what decisions need. For one thread."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._recent: list[Decision] = []
        self._rate: float | None = None

    def decide(self, load: Load, at_s: float) -> int:
        """Return how many workers are wanted.

        A rate holds until another is known. Workers that were wanted last and are not there are starting.
        """
        self._rate = load.rate or self._rate
        wanted_last = self._recent[-1].wanted if self._recent else 0
        starting = max(load.starting, wanted_last - load.alive)
        load = replace(load, rate=self._rate, starting=starting)
        decision = decide(self._policy, load, self._recent, at_s)
        young = (one for one in self._recent if 0 <= at_s - one.at_s <= self._policy.down_after_s)
        self._recent = [*young, decision]
        return decision.wanted
