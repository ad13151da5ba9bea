"""Whether the queue has become dearer since it was last recorded: ``make bench-smoke``, under 90 seconds.

    python -m benchmarks.throughput.smoke

The ceiling and alexq's two rows, all warm at once, take turns for some short rounds. Their ratios, in
images/s and in CPU time an image, are held against those in ``results/cpu.json``. Exit codes: 0 as good as
recorded, 1 a ratio fell by more than ``MAX_FALL``.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from contextlib import ExitStack
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.throughput.alexq_rows import OneSubmission, SingleImages
from benchmarks.throughput.ceiling import Ceiling
from benchmarks.throughput.contender import Contender, Work
from benchmarks.throughput.report import RESULTS, Round
from benchmarks.throughput.rounds import CEILING, one_round, prepared

MAX_FALL = 0.15
ROUNDS = 3
SECONDS = 3.5
"""How long one round of one row takes."""


def main() -> int:
    """Measure, print the ratios, and return the exit code."""
    recorded = {row["key"]: row for row in json.loads((RESULTS / "cpu.json").read_text())["rows"]}
    ceiling = Ceiling()
    ceiling.settings = dict(recorded[CEILING]["settings"])
    contenders: dict[str, Contender] = {
        CEILING: ceiling,
        "alexq": OneSubmission(),
        "alexq-singles": SingleImages(),
    }
    with prepared("bf16") as (work, folder), ExitStack() as stack:
        for key, contender in contenders.items():
            stack.callback(contender.stop)
            (folder / key).mkdir()
            contender.start(work, folder / key)
        rounds = take_turns(contenders, work)
    return show(rounds, recorded)


def take_turns(contenders: dict[str, Contender], work: Work) -> dict[str, list[Round]]:
    """Return the rounds of each contender."""
    started = time.perf_counter()
    expected = contenders[CEILING].classify(work.images).best
    count = round(SECONDS * len(work.images) / (time.perf_counter() - started))
    rounds: dict[str, list[Round]] = {key: [] for key in contenders}
    for _ in range(ROUNDS):
        for key, contender in contenders.items():
            rounds[key].append(one_round(key, contender, work, count, expected, peak_bytes=0))
    return rounds


def show(rounds: dict[str, list[Round]], recorded: dict[str, dict[str, Any]]) -> int:
    """Print each ratio beside the recorded one; return 1 if one fell too far."""
    table = Table("ratio to the ceiling", "now", "recorded", "")
    exit_code = 0
    for key in rounds:
        if key == CEILING:
            continue
        pairs = list(zip(rounds[key], rounds[CEILING], strict=True))
        cpu_ms = {row: recorded[row]["cpu_ms_per_image"]["median"] for row in (key, CEILING)}
        figures = {
            "images/s": (
                statistics.median(one.images_per_s / best.images_per_s for one, best in pairs),
                recorded[key]["ratio_to_ceiling"]["median"],
            ),
            "images per CPU second": (
                statistics.median(best.cpu_s_per_image / one.cpu_s_per_image for one, best in pairs),
                cpu_ms[CEILING] / cpu_ms[key],
            ),
        }
        for figure, (now, before) in figures.items():
            has_fallen = now < (1 - MAX_FALL) * before
            exit_code |= has_fallen
            verdict = f"fell by more than {MAX_FALL:.0%}" if has_fallen else "ok"
            table.add_row(f"{key}: {figure}", f"{now:.3f}", f"{before:.3f}", verdict)
    Console().print(table)
    return exit_code


if __name__ == "__main__":
    sys.exit(main())
