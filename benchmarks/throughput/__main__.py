"""What classification through a queue costs, in one run: ``make bench``.

    python -m benchmarks.throughput [--rounds 3] [--seconds 12] [--rows NAME …] [--save]

Every contender gets the same images, weights, precision and cores. Each round runs all of them in turn,
each long enough to take ``--seconds``; medians are compared as ratios to the ceiling of the same round.
A round with a wrong, missing or failed answer ends the contender's row: no rate is shown for it.
"""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from pathlib import Path

from rich.console import Console

from benchmarks.throughput import report
from benchmarks.throughput.contender import NotRunnableError, Work
from benchmarks.throughput.report import Row
from benchmarks.throughput.rounds import CEILING, CONTENDERS, prepared, run


def main() -> int:
    """Measure, print a table, write the result; return the exit code."""
    arguments = parse()
    console = Console(stderr=True)
    with prepared(arguments.precision) as (work, folder):
        chosen = [CEILING, *(row for row in arguments.rows if row != CEILING)]
        rows = measure(work, chosen, folder, arguments, console)
    result = report.record(rows, work, rounds=arguments.rounds)
    report.show(result, Console(width=160))
    if arguments.save:
        report.save(result)
    return 0 if all(row.why_not is None for row in rows if row.key.startswith("alexq")) else 1


def parse() -> argparse.Namespace:
    """Return the command line's arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="alternating rounds of each row")
    parser.add_argument("--seconds", type=float, default=12.0, help="how long one round of one row takes")
    parser.add_argument("--precision", default="bf16", choices=["fp32", "bf16"])
    parser.add_argument("--rows", nargs="+", default=list(CONTENDERS), choices=list(CONTENDERS))
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/cpu.json and charts")
    return parser.parse_args()


def measure(
    work: Work, chosen: list[str], folder: Path, arguments: argparse.Namespace, console: Console
) -> list[Row]:
    """Return a row of each contender. One is started at a time, so that the others take no memory or core."""
    rows = [Row(key, CONTENDERS[key]().name) for key in chosen]
    expected: list[int] = []
    for number in range(arguments.rounds):
        for row in rows:
            if row.why_not is not None:
                continue
            began = time.monotonic()
            try:
                run(row, work, folder / f"{row.key}-{number}", arguments.seconds, expected)
            except NotRunnableError as error:
                row.why_not = str(error)
            except Exception as error:  # noqa: BLE001 - the others go on; the row says why it has no rate
                console.print(traceback.format_exc(), markup=False)
                row.why_not = f"{type(error).__name__}: {error}"
            told = row.why_not or f"{row.rounds[-1].images_per_s:.1f} images/s"
            console.print(f"round {number + 1}: {row.name}: {told} ({time.monotonic() - began:.0f} s)")
    return rows


if __name__ == "__main__":
    sys.exit(main())
