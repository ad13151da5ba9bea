"""The device alone: how fast it copies and multiplies, and how many images a second it classifies."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from alexq_schema.models import ModelVersion
from alexq_schema.names import Precision
from alexq_worker.inference.cuda import SLOTS, CudaRunner, InFlight, pinned
from alexq_worker.inference.engine import Engine
from alexq_worker.inference.topk import TopK
from benchmarks.gpu_answers import Agreement, agreement
from benchmarks.gpu_timing import device_s, medians, wall_s

PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16", "fp16")
LARGEST = 1024
IMAGES_A_TURN = 2048
"""Images in one measurement of a batch size, at least 20 batches."""

COPY_BYTES = 2**28
MATRIX = 8192


def ceilings(device: torch.device, rounds: int) -> dict[str, float]:
    """Return what the device copies from the host, GB/s, and multiplies, TFLOP/s."""
    with torch.cuda.device(device), torch.inference_mode():
        there = torch.empty(COPY_BYTES, dtype=torch.uint8, device=device)
        hosts = {
            "pinned": pinned((COPY_BYTES,), torch.uint8),
            "pageable": torch.zeros(COPY_BYTES, dtype=torch.uint8),
        }
        a, b = (torch.randn(MATRIX, MATRIX, device=device, dtype=torch.bfloat16) for _ in range(2))
        product = torch.empty_like(a)

        def copy(host: torch.Tensor) -> float:
            return COPY_BYTES / device_s(lambda: there.copy_(host, non_blocking=True), 8) / 1e9

        def multiply() -> float:
            return 2 * MATRIX**3 / device_s(lambda: torch.mm(a, b, out=product), 20) / 1e12

        measures: dict[str, Callable[[], float]] = {
            f"host_to_device_{name}_gb_per_s": partial(copy, host) for name, host in hosts.items()
        }
        found = medians({**measures, "bf16_matmul_tflop_per_s": multiply}, rounds)
    return {name: round(value, 1) for name, value in found.items()}


class Variant:
    """One precision with graphs or without, for batches of up to ``limit`` images."""

    def __init__(self, precision: Precision, runner: CudaRunner, limit: int, side: int) -> None:
        self.precision = precision
        self.runner = runner
        self.limit = limit
        self._hosts = [pinned((limit, side, side, 3), torch.uint8) for _ in range(SLOTS)]

    def fill(self, pixels: NDArray[np.uint8]) -> None:
        """Put images into both host batches, from the first on again when there are too few."""
        places = torch.arange(self.limit) % len(pixels)
        for host in self._hosts:
            torch.index_select(torch.from_numpy(pixels), 0, places, out=host)

    def compare(self, size: int, expected: TopK) -> Agreement:
        """Classify a batch of ``size`` and compare the answers."""
        top = self.runner.launch(self._hosts[0][:size]).fetch()
        places = np.arange(size) % len(expected.indices)
        return agreement(top, TopK(expected.indices[places], expected.probabilities[places]))

    def from_device(self, size: int) -> float:
        """Return images/s when the pixels are on the device already and the answers stay there."""
        batches = max(20, IMAGES_A_TURN // size)
        with torch.cuda.stream(self.runner.compute):
            return size / device_s(lambda: self.runner.slots[0].run(size), batches)

    def from_host(self, size: int) -> float:
        """Return images/s from pinned host memory to answers on the host, two batches on their way."""
        batches = max(20, IMAGES_A_TURN // size)

        def run() -> None:
            flying: deque[InFlight] = deque()
            for number in range(batches):
                if len(flying) == SLOTS:
                    flying.popleft().fetch()
                flying.append(self.runner.launch(self._hosts[number % SLOTS][:size]))
            for batch in flying:
                batch.fetch()

        return batches * size / wall_s(run)


def variants(version: ModelVersion, device: str) -> tuple[list[Variant], dict[str, Any]]:
    """Return every precision with and without graphs, and what became of each precision's warm-up."""
    made: list[Variant] = []
    warm_ups: dict[str, Any] = {}
    for precision in PRECISIONS:
        engine = Engine.load(version, device=device, precision=precision, max_batch=LARGEST)
        engine.warm_up()
        assert isinstance(engine.runner, CudaRunner)
        warm_ups[precision] = {"batch_limit": engine.batch_limit, "is_graphed": engine.is_graphed}
        plain = CudaRunner(engine.forward, use_graphs=False)
        with torch.inference_mode():
            plain.prepare(engine.batch_limit)
        runners = [plain, engine.runner] if engine.is_graphed else [plain]
        made += [Variant(precision, runner, engine.batch_limit, engine.forward.side) for runner in runners]
    return made, warm_ups


def forward(
    version: ModelVersion, device: str, pixels: NDArray[np.uint8], expected: TopK, rounds: int
) -> dict[str, Any]:
    """Return images/s of every precision, with and without graphs, for batches of 1 to 1024.

    Args:
        pixels: uint8[N, side, side, 3].
        expected: the reference's answers to them.
    """
    made, warm_ups = variants(version, device)
    for variant in made:
        variant.fill(pixels)
    rows: list[dict[str, Any]] = []
    with torch.cuda.device(torch.device(device)), torch.inference_mode():
        for size in [2**step for step in range(LARGEST.bit_length())]:
            rows += _of_size(size, [variant for variant in made if size <= variant.limit], expected, rounds)
    return {"warm_ups": warm_ups, "rows": rows}


def _of_size(size: int, made: Sequence[Variant], expected: TopK, rounds: int) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    measures: dict[str, Callable[[], float]] = {}
    for number, variant in enumerate(made):
        compared = variant.compare(size, expected)
        rows.append(
            {
                "batch": size,
                "precision": variant.precision,
                "launched_as": "graph" if variant.runner.is_graphed else "kernels",
                "agreement": compared.to_json(),
                "images_per_s": None,
            }
        )
        if compared.suffices(variant.precision):
            measures[f"{number} from_device"] = partial(variant.from_device, size)
            measures[f"{number} from_host"] = partial(variant.from_host, size)
    for name, rate in medians(measures, rounds).items():
        place, way = name.split()
        row = rows[int(place)]
        row["images_per_s"] = (row["images_per_s"] or {}) | {way: round(rate)}
    return rows
