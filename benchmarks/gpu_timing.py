"""How the GPU benchmarks time: rounds in turn, medians; the device's clock for what only it does."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

import torch


def device_s(call: Callable[[], object], repeats: int) -> float:
    """Return the seconds of one ``call``, by events on the current stream around ``repeats`` of them."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    call()
    torch.cuda.synchronize()
    start.record()
    for _ in range(repeats):
        call()
    end.record()
    torch.cuda.synchronize()
    elapsed_ms: float = start.elapsed_time(end)
    return elapsed_ms / 1000 / repeats


def wall_s(call: Callable[[], object]) -> float:
    """Return the seconds of one ``call`` and of everything that it left on the device."""
    torch.cuda.synchronize()
    started = time.perf_counter()
    call()
    torch.cuda.synchronize()
    return time.perf_counter() - started


def medians(measures: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, float]:
    """Return the median of each measure, taken in turn ``rounds`` times after a turn that does not count."""
    found: dict[str, list[float]] = {name: [] for name in measures}
    for turn in range(rounds + 1):
        for name, measure in measures.items():
            value = measure()
            if turn:
                found[name].append(value)
    return {name: statistics.median(values) for name, values in found.items()}
