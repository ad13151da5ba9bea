"""What autoscaling costs and what it makes images wait: alexq's policy and others, on simulated days.

    python -m benchmarks.scale_sim [--seed N]

Arrivals by the second, workers that do ``RATE`` images/s once they have started, images served in the order
in which they came. A policy is asked every ``LOOK_S`` seconds. Nothing is measured here but the policies:
alexq's is the code that the dashboard runs (``alexq_monitor.scaling``). Longer than other modules: traces,
policies, simulation and chart of one program that nobody else uses.
"""

from __future__ import annotations

import argparse
import json
import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from alexq_monitor.scaling import Autoscaler, Load, Policy
from alexq_schema.names import Lane
from benchmarks.conditions import conditions

RESULTS = Path(__file__).parent / "results"
RATE = 100
"""Images/s of one worker."""
MOST = 20
LOOK_S = 15
"""HPA's period."""
STARTUPS_S = (30, 120)
HOUR = 3_600
BURST = 100_000


@dataclass(frozen=True, slots=True)
class Seen:
    """What a policy may know."""

    at_s: int
    waiting: int
    minutes: tuple[int, int]
    """Arrivals of the last two minutes."""
    alive: int
    busy: int
    starting: int


Ask = Callable[[Seen], int]


@dataclass
class Outcome:
    """What a day with one policy was like."""

    worker_hours: float
    p50_s: float
    p95_s: float
    max_s: float
    changes: int
    """How often the number of workers was changed."""
    workers: list[int] = field(default_factory=list)
    """Alive and starting, at each look."""


def simulate(arrivals: Sequence[int], ask: Ask, startup_s: int, at_first: int = 0) -> Outcome:
    """Serve ``arrivals``, images by the second, and what is left after them."""
    queue: deque[list[int]] = deque()  # [second of arrival, images]
    starting: deque[int] = deque()  # when each is ready
    waits: dict[int, int] = {}
    alive, served, waiting, worker_s, changes = at_first, 0, 0, 0, 0
    totals = np.concatenate([[0], np.cumsum(arrivals)])
    counts: list[int] = []
    second = 0
    while second < len(arrivals) or waiting:
        while starting and starting[0] <= second:
            starting.popleft()
            alive += 1
        if second < len(arrivals) and arrivals[second]:
            queue.append([second, int(arrivals[second])])
            waiting += int(arrivals[second])
        if second % LOOK_S == 0:
            ends = [min(len(arrivals), max(0, second - ago)) for ago in (0, 60, 120)]
            now, one, two = (int(totals[end]) for end in ends)
            busy = min(alive, math.ceil(served / RATE))
            seen = Seen(second, waiting, (now - one, one - two), alive, busy, len(starting))
            wanted, there = ask(seen), alive + len(starting)
            changes += wanted != there
            starting.extend([second + startup_s] * (wanted - there))
            for _ in range(there - wanted):
                if starting:
                    starting.pop()
                else:
                    alive -= 1
            counts.append(wanted)
        served = min(waiting, alive * RATE)
        waiting -= served
        left = served
        while left:
            came, images = queue[0]
            taken = min(left, images)
            waits[second - came] = waits.get(second - came, 0) + taken
            left -= taken
            if taken == images:
                queue.popleft()
            else:
                queue[0][1] -= taken
        worker_s += alive + len(starting)
        second += 1
    return Outcome(worker_s / HOUR, *_spread(waits), changes, counts)


def _spread(waits: dict[int, int]) -> tuple[float, float, float]:
    times = np.array(sorted(waits))
    upto = np.cumsum([waits[time] for time in times])
    return (
        float(times[np.searchsorted(upto, upto[-1] * 0.50)]),
        float(times[np.searchsorted(upto, upto[-1] * 0.95)]),
        float(times[-1]),
    )


class Ours:
    """``alexq_wanted_workers``, followed."""

    def __init__(self, startup_s: int, told_rate: float = 0.0) -> None:
        policy = Policy(
            drain_s={Lane.INTERACTIVE: 10.0, Lane.BULK: 60.0},
            min_workers=0,
            max_workers=MOST,
            startup_s=startup_s,
            down_after_s=2.0 * startup_s,
            rate=told_rate,
        )
        self._autoscaler = Autoscaler(policy)
        self._rate: float | None = None

    def __call__(self, seen: Seen) -> int:
        """Return how many workers are wanted."""
        self._rate = RATE if seen.busy else self._rate
        load = Load(
            waiting={Lane.BULK: seen.waiting},
            in_per_s=min(seen.minutes) / 60,
            rate=self._rate,
            alive=seen.alive,
            busy=seen.busy,
            starting=seen.starting,
        )
        return self._autoscaler.decide(load, seen.at_s)


class Keda:
    """KEDA's ScaledObject with an average value, and the HPA that it makes, as both behave by default.

    From zero: when its poll, every 30 s, finds anything. To zero: ``cooldownPeriod``, 300 s, after the last
    poll that did. Between: ceil(metric / target), a tolerance of 10 %, at most 4 more or twice as many a
    round, and the highest answer of 300 s.
    """

    def __init__(self, target: float) -> None:
        self._target = target
        self._answers: deque[tuple[int, int]] = deque()
        self._active_at = -math.inf

    def __call__(self, seen: Seen) -> int:
        """Return how many workers are wanted."""
        there = seen.alive + seen.starting
        is_poll = seen.at_s % 30 == 0
        if seen.waiting and is_poll:
            self._active_at = seen.at_s
        if there == 0:
            return 1 if seen.waiting and is_poll else 0
        if seen.at_s - self._active_at > 300:
            self._answers.clear()
            return 0
        ratio = seen.waiting / (self._target * there)
        answer = there if abs(ratio - 1) <= 0.1 else math.ceil(seen.waiting / self._target)
        self._answers.append((seen.at_s, max(1, answer)))
        while self._answers[0][0] <= seen.at_s - 300:
            self._answers.popleft()
        highest = max(answer for _, answer in self._answers)
        return min(highest, MOST, max(2 * there, there + 4))


class QueueLength:
    """An alarm on the queue's length: one worker more a minute while it is long, one fewer while empty."""

    def __call__(self, seen: Seen) -> int:
        """Return how many workers are wanted."""
        there = seen.alive + seen.starting
        if seen.at_s % 60:
            return there
        if seen.waiting > 10 * RATE * there:
            return min(MOST, there + 1)
        return max(0, there - 1) if not seen.waiting else there


def fixed(workers: int) -> Ask:
    """Return a policy that never changes its mind."""
    return lambda _seen: workers


def traces(seed: int) -> dict[str, np.ndarray[Any, Any]]:
    """Return images by the second: Poisson around a rate, and bursts on nothing."""
    random = np.random.default_rng(seed)
    day = np.arange(24 * HOUR)
    bursts = np.zeros(12 * HOUR, dtype=int)
    for number in range(8):
        bursts[number * 90 * 60 + random.integers(0, 60 * 60)] = BURST
    return {
        "steady": random.poisson(350, 4 * HOUR),
        "diurnal": random.poisson(420 - 400 * np.cos(2 * np.pi * day / (24 * HOUR))),
        "bursts": bursts,
    }


def policies(trace: np.ndarray[Any, Any], startup_s: int) -> dict[str, tuple[Ask, int]]:
    """Return each policy, and how many workers it begins with."""
    by_minute = trace.reshape(-1, 60).sum(axis=1) / 60
    mean, peak = (min(MOST, math.ceil(1.1 * rate / RATE)) for rate in (trace.mean(), by_minute.max()))
    return {
        "alexq": (Ours(startup_s), 0),
        "alexq, told the rate": (Ours(startup_s, RATE), 0),
        "KEDA, 5 a worker (its default)": (Keda(5), 0),
        "KEDA, a minute's work a worker": (Keda(60 * RATE), 0),
        "queue length only": (QueueLength(), 0),
        f"fixed, for the mean ({mean})": (fixed(mean), mean),
        f"fixed, for the peak ({peak})": (fixed(peak), peak),
    }


def run(seed: int) -> list[dict[str, Any]]:
    """Simulate every trace with every policy and start-up time."""
    rows = []
    for name, trace in traces(seed).items():
        for startup_s in STARTUPS_S:
            for policy, (ask, at_first) in policies(trace, startup_s).items():
                outcome = simulate(trace.tolist(), ask, startup_s, at_first)
                rows.append({"trace": name, "startup_s": startup_s, "policy": policy, **asdict(outcome)})
    return rows


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return the rows as Markdown."""
    lines = [
        "| trace | start-up, s | policy | worker-hours | waits p50, s | p95, s | max, s | changes |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    lines += [
        f"| {row['trace']} | {row['startup_s']} | {row['policy']} | {row['worker_hours']:.1f} "
        f"| {row['p50_s']:.0f} | {row['p95_s']:.0f} | {row['max_s']:.0f} | {row['changes']} |"
        for row in rows
    ]
    return "\n".join(lines)


COLOURS = ("#1f6feb", "#7fb2ff", "#d1495b", "#e8a33d", "#6a994e", "#9aa4b2", "#495057")


def chart(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw cost against waiting for the slow start-up, and the workers of three policies in two bursts."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    slow = [row for row in rows if row["startup_s"] == STARTUPS_S[-1]]
    drawing, panels = pyplot.subplots(2, 2, figsize=(11, 7.4), layout="constrained")
    for axes, trace in zip(panels.flat, ("steady", "diurnal", "bursts"), strict=False):
        of_trace = [row for row in slow if row["trace"] == trace]
        for row, colour in zip(of_trace, COLOURS, strict=True):
            label = row["policy"].partition(" (")[0]
            axes.plot(row["worker_hours"], row["p95_s"] + 1, "o", ms=9, color=colour, label=label)
        axes.set_title(f"{trace}: what is cheap and quick is below, on the left", loc="left", fontsize=10)
        axes.set_xlabel("worker-hours")
        axes.set_ylabel("95 % wait less than, s")
        axes.set_yscale("log")
        axes.set_xlim(left=0)
    panels[0][0].legend(frameon=False, fontsize=8)
    axes = panels[1][1]
    in_bursts = [row for row in slow if row["trace"] == "bursts"]
    first = next(look for look, workers in enumerate(in_bursts[1]["workers"]) if workers)
    for row, colour in zip(in_bursts, COLOURS, strict=True):
        minutes = [(look - first) * LOOK_S / 60 for look in range(len(row["workers"]))]
        axes.step(minutes, row["workers"], where="post", color=colour)
    axes.set_xlim(-1, 16)
    axes.set_title(f"the first burst of {BURST:,}, start-up {STARTUPS_S[-1]} s", loc="left", fontsize=10)
    axes.set_xlabel("minutes since the burst was seen")
    axes.set_ylabel("workers, starting ones too")
    for axes in panels.flat:
        axes.spines[["top", "right"]].set_visible(False)
    drawing.savefig(path, dpi=110)
    pyplot.close(drawing)


def main() -> None:
    """Print the table; write it, the JSON and the chart beside the other results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    rows = run(arguments.seed)
    print(table(rows))
    record = {
        **conditions("numpy"),
        "seed": arguments.seed,
        "images_per_s_of_a_worker": RATE,
        "most_workers": MOST,
        "rows": [{name: value for name, value in row.items() if name != "workers"} for row in rows],
    }
    (RESULTS / "scale_sim.json").write_text(json.dumps(record, indent=2) + "\n")
    chart(rows, RESULTS / "scale-sim.png")


if __name__ == "__main__":
    main()
