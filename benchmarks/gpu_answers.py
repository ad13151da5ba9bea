"""Whether answers are right: compared with those of fp32 on the CPU, which are the reference's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alexq_schema.models import ModelVersion
from alexq_worker.inference.decode import Decoder
from alexq_worker.inference.engine import Engine
from alexq_worker.inference.topk import TopK

MAX_PIXELS = 50_000_000
MIN_TOP1 = {"fp32": 1.0, "bf16": 0.97, "fp16": 0.99}
MAX_DIFFERENCE = {"fp32": 1e-4, "bf16": 0.03, "fp16": 0.01}
"""What an answer may differ by; no rate is told for work whose answers differ by more."""


@dataclass(frozen=True)
class Agreement:
    """How answers compare with the reference's."""

    top1: float
    """Share of images with the same best class."""
    difference: float
    """The largest between probabilities of the same rank."""

    def suffices(self, precision: str) -> bool:
        """Return whether this is what ``precision`` may differ by."""
        return self.top1 >= MIN_TOP1[precision] and self.difference <= MAX_DIFFERENCE[precision]

    def to_json(self) -> dict[str, Any]:
        """Return it for the record."""
        return {name: float(f"{value:.3g}") for name, value in asdict(self).items()}


def decoded(version: ModelVersion, files: Sequence[bytes]) -> NDArray[np.uint8]:
    """Return uint8[B, crop, crop, 3], by Pillow."""
    decoder = Decoder(version.info.preprocessing, MAX_PIXELS)
    side = version.info.preprocessing.crop
    pixels = np.empty((len(files), side, side, 3), np.uint8)
    for slot, data in zip(pixels, files, strict=True):
        decoder.decode(data).write_to(slot)
    return pixels


def classified(engine: Engine, pixels: NDArray[np.uint8]) -> TopK:
    """Return the answers of any number of images, in batches of a warm engine's limit."""
    tops = [
        engine.classify(pixels[start : start + engine.batch_limit])
        for start in range(0, len(pixels), engine.batch_limit)
    ]
    return TopK(
        np.concatenate([top.indices for top in tops]), np.concatenate([top.probabilities for top in tops])
    )


def reference(version: ModelVersion, pixels: NDArray[np.uint8]) -> TopK:
    """Return the answers of fp32 on the CPU."""
    engine = Engine.load(version, device="cpu", precision="fp32", max_batch=64)
    engine.warm_up()
    return classified(engine, pixels)


def agreement(top: TopK, expected: TopK) -> Agreement:
    """Compare answers with the reference's to the same images."""
    return Agreement(
        top1=float((top.indices[:, 0] == expected.indices[:, 0]).mean()),
        difference=float(np.abs(top.probabilities - expected.probabilities).max()),
    )
