"""What classification through a queue costs, in one run: ``make bench``.

    python -m benchmarks.throughput [--rounds 3] [--seconds 12] [--rows NAME …] [--save]

Every contender gets the same images, weights, precision and cores. Each round runs all of them in turn,
each long enough to take ``--seconds``; medians are compared as ratios to the ceiling of the same round.
A round with a wrong, missing or failed answer ends the contender's row: no rate is shown for it.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path

from rich.console import Console

from alexq_schema.models import ModelStore
from alexq_schema.settings import usable_cores
from alexq_worker.inference.versions import create_untrained
from benchmarks.images import jpegs
from benchmarks.throughput import report
from benchmarks.throughput.alexq_rows import OneSubmission, SingleImages
from benchmarks.throughput.ceiling import Ceiling
from benchmarks.throughput.contender import Contender, NotRunnableError, Usage, Work, measured, peak_memory
from benchmarks.throughput.peers import PEERS
from benchmarks.throughput.report import Round, Row

DISTINCT_IMAGES = 256
MIN_AGREEMENT = 0.98
"""Share of best classes that must be the ceiling's: in bf16 they may differ with the batch."""
CEILING = "ceiling"

CONTENDERS: Mapping[str, Callable[[], Contender]] = {
    CEILING: Ceiling,
    "alexq": OneSubmission,
    "alexq-singles": SingleImages,
    **PEERS,
}


def main() -> int:
    """Measure, print a table, write the result; return the exit code."""
    arguments = parse()
    console = Console(stderr=True)
    with tempfile.TemporaryDirectory(prefix="alexq-bench-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        store = ModelStore(folder / "models")
        store.activate(create_untrained(store).info.ref)
        work = Work(jpegs(DISTINCT_IMAGES), store.models_dir, arguments.precision, usable_cores())
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


def run(row: Row, work: Work, folder: Path, seconds: float, expected: list[int]) -> None:
    """Start a contender, measure one round, stop it. The ceiling, which comes first, sets ``expected``.

    Raises:
        RuntimeError: an answer is missing, failed or wrong.
    """
    folder.mkdir()
    contender = CONTENDERS[row.key]()
    if row.settings and hasattr(contender, "settings"):
        contender.settings = dict(row.settings)  # found in the first round
    try:
        contender.start(work, folder)
        warm_up = contender.classify(work.images)
        if row.key == CEILING and not expected:
            expected += warm_up.best
        check(row.name, warm_up.best, expected)
        started = time.perf_counter()
        with peak_memory(contender.pids()) as peak:
            contender.classify(work.images)
        rate = len(work.images) / (time.perf_counter() - started)
        count = max(len(work.images), round(seconds * rate))
        images = [work.images[number % len(work.images)] for number in range(count)]
        with measured(contender.pids()) as usage:
            answers = contender.classify(images)
        check(row.name, answers.best, [expected[number % len(expected)] for number in range(count)])
        row.rounds.append(round_of(count, usage, answers.latency_s, peak[0]))
        row.settings = dict(getattr(contender, "settings", {}))
        row.version = contender.version() if hasattr(contender, "version") else ""
    finally:
        contender.stop()


def check(name: str, best: list[int], expected: list[int]) -> None:
    """Raise RuntimeError unless every image has an answer and they are the ceiling's."""
    if len(best) != len(expected):
        raise RuntimeError(f"{name}: {len(best)} answers for {len(expected)} images")
    same = sum(a == b for a, b in zip(best, expected, strict=True)) / len(expected)
    if same < MIN_AGREEMENT:
        raise RuntimeError(f"{name}: only {same:.1%} of the answers are the ceiling's")


def round_of(count: int, usage: Usage, latency_s: list[float], peak_bytes: int) -> Round:
    """Return the figures of one round."""
    ordered = sorted(latency_s)
    at = {share: ordered[min(len(ordered) - 1, int(share * len(ordered)))] for share in (0.5, 0.95, 0.99)}
    return Round(
        images=count,
        images_per_s=count / usage.wall_s,
        cpu_s_per_image=usage.cpu_s / count,
        latency_s={f"p{share * 100:.0f}": seconds for share, seconds in at.items()},
        peak_bytes=peak_bytes,
    )


if __name__ == "__main__":
    sys.exit(main())
