"""Everything: one worker on the device behind the queue and the database, fed by one submission."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from alexq_worker.inference.topk import TopK
from benchmarks.gpu_answers import MIN_TOP1
from benchmarks.gpu_timing import medians
from benchmarks.throughput.alexq_rows import OneSubmission
from benchmarks.throughput.contender import Work

PRECISIONS = ("fp32", "bf16")
BATCHES = (16, 64, 256)


def pipeline(
    models_dir: Path,
    device: str,
    files: Sequence[bytes],
    expected: TopK,
    images: int,
    cores: int,
    rounds: int,
) -> list[dict[str, Any]]:
    """Return images/s through embedded stacks, one for each precision and largest batch.

    The time runs from the call that submits to the last result read back. Images are decoded on the host.

    Args:
        files: distinct JPEGs; ``images`` of them go into one submission, each about equally often, with some
            bytes after the picture's end that make it an image of its own.
        expected: the reference's answers to them.
    """
    work = {name: Work(list(files), models_dir, name, cores) for name in PRECISIONS}
    numbers = [number % len(files) for number in range(images)]
    submission = [files[number] + place.to_bytes(8) for place, number in enumerate(numbers)]
    wanted = expected.indices[numbers, 0]
    rows: list[dict[str, Any]] = []
    for precision in PRECISIONS:
        agreements: dict[int, float] = {}
        with ExitStack() as running:
            measures: dict[str, Callable[[], float]] = {}
            for size in BATCHES:
                stack = OneSubmission(device=device, max_batch=size)
                folder = running.enter_context(tempfile.TemporaryDirectory(prefix="alexq-gpu-"))
                running.callback(stack.stop)  # before its folder goes
                stack.start(work[precision], Path(folder))
                measures[str(size)] = partial(_round, stack, submission, wanted, size, agreements)
            rates = medians(measures, rounds)
        for size in BATCHES:
            suffices = agreements[size] >= MIN_TOP1[precision]
            rows.append(
                {
                    "precision": precision,
                    "max_batch": size,
                    "top1_agreement": round(agreements[size], 4),
                    "images_per_s": round(rates[str(size)], 1) if suffices else None,
                }
            )
    return rows


def _round(
    stack: OneSubmission,
    submission: Sequence[bytes],
    wanted: np.ndarray[Any, Any],
    size: int,
    agreements: dict[int, float],
) -> float:
    started = time.perf_counter()
    answers = stack.classify(submission)
    elapsed_s = time.perf_counter() - started
    same = float((np.asarray(answers.best) == wanted).mean())
    agreements[size] = min(same, agreements.get(size, 1.0))
    return len(submission) / elapsed_s
