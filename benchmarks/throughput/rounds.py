"""Rounds of a contender: what is measured, and that it is only told for work that was done."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from alexq_schema.models import ModelStore
from alexq_schema.settings import usable_cores
from alexq_worker.inference.versions import create_untrained
from benchmarks.images import jpegs
from benchmarks.throughput.alexq_rows import OneSubmission, SingleImages
from benchmarks.throughput.ceiling import Ceiling
from benchmarks.throughput.contender import Answers, Contender, Usage, Work, measured, peak_memory
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


@contextmanager
def prepared(precision: str) -> Iterator[tuple[Work, Path]]:
    """Give the work that every contender gets, and an empty folder, which goes afterwards."""
    with tempfile.TemporaryDirectory(prefix="alexq-bench-", ignore_cleanup_errors=True) as name:
        store = ModelStore(Path(name) / "models")
        store.activate(create_untrained(store).info.ref)
        yield Work(jpegs(DISTINCT_IMAGES), store.models_dir, precision, usable_cores()), Path(name)


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
        row.rounds.append(one_round(row.name, contender, work, count, expected, peak[0]))
        row.settings = dict(getattr(contender, "settings", {}))
        row.version = contender.version() if hasattr(contender, "version") else ""
    finally:
        contender.stop()


def one_round(
    name: str, contender: Contender, work: Work, count: int, expected: Sequence[int], peak_bytes: int
) -> Round:
    """Return the figures of ``count`` images through a warm contender.

    Raises:
        RuntimeError: an answer is missing, failed or wrong.
    """
    images = [work.images[number % len(work.images)] for number in range(count)]
    with measured(contender.pids()) as usage:
        answers = contender.classify(images)
    check(name, answers.best, [expected[number % len(expected)] for number in range(count)])
    return _round_of(count, usage, answers, peak_bytes)


def check(name: str, best: Sequence[int], expected: Sequence[int]) -> None:
    """Raise RuntimeError unless every image has an answer and they are the ceiling's."""
    if len(best) != len(expected):
        raise RuntimeError(f"{name}: {len(best)} answers for {len(expected)} images")
    same = sum(a == b for a, b in zip(best, expected, strict=True)) / len(expected)
    if same < MIN_AGREEMENT:
        raise RuntimeError(f"{name}: only {same:.1%} of the answers are the ceiling's")


def _round_of(count: int, usage: Usage, answers: Answers, peak_bytes: int) -> Round:
    ordered = sorted(answers.latency_s)
    at = {share: ordered[min(len(ordered) - 1, int(share * len(ordered)))] for share in (0.5, 0.95, 0.99)}
    return Round(
        images=count,
        images_per_s=count / usage.wall_s,
        cpu_s_per_image=usage.cpu_s / count,
        latency_s={f"p{share * 100:.0f}": seconds for share, seconds in at.items()},
        peak_bytes=peak_bytes,
    )
