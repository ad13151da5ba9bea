"""What the peers' servers are made of: their settings, decode threads, and the thread that owns the model."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from alexq_schema.models import ModelStore
from alexq_worker.inference.crops import Picture
from alexq_worker.inference.decode import Decoder

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from benchmarks.throughput.model import Model

MAX_PIXELS = 50_000_000
"""As model.py has it; a process that only decodes imports no torch."""


def setting(name: str) -> int:
    """Return a setting of the contender that started this process."""
    return int(os.environ[f"BENCH_{name.upper()}"])


def decoder() -> Decoder:
    """Return the decoder alone, for a process that has no model."""
    version = ModelStore(Path(os.environ["BENCH_MODELS_DIR"])).resolve()
    return Decoder(version.info.preprocessing, MAX_PIXELS)


@dataclass(frozen=True)
class Pixels:
    """A picture that came from another process; stands in for :class:`Picture` in a batch."""

    data: bytes
    """uint8[crop, crop, 3]."""

    def write_to(self, out: NDArray[np.uint8]) -> None:
        """Copy the pixels into ``out``, one slot of a batch."""
        out[...] = np.frombuffer(self.data, np.uint8).reshape(out.shape)


class Stages:
    """Decode threads, and one thread that loads, warms up and calls the model."""

    def __init__(self) -> None:
        self._decoders = ThreadPoolExecutor(setting("decode_threads"), "decode")
        self._owner = ThreadPoolExecutor(1, "model")
        self._model: Model = self._owner.submit(_load).result()
        self._max_batch = setting("max_batch")

    def classify(self, images: Sequence[bytes]) -> list[int]:
        """Return the best class of each encoded image; a broken one raises for all."""
        return self.best(list(self._decoders.map(self._model.decode, images)))

    def try_to_decode(self, images: Sequence[bytes]) -> list[Picture | Exception]:
        """Return each image's picture, or the error that it raised."""

        def attempt(image: bytes) -> Picture | Exception:
            try:
                return self._model.decode(image)
            except Exception as error:  # noqa: BLE001  whatever it is, it is this image's answer
                return error

        return list(self._decoders.map(attempt, images))

    def best(self, pictures: Sequence[Picture]) -> list[int]:
        """Return the best class of each picture."""
        best: list[int] = []
        for start in range(0, len(pictures), self._max_batch):
            best += self._owner.submit(self._model.best, pictures[start : start + self._max_batch]).result()
        return best

    async def decode_soon(self, image: bytes) -> Picture:
        """Decode in a thread."""
        return await asyncio.get_running_loop().run_in_executor(self._decoders, self._model.decode, image)

    async def best_soon(self, pictures: Sequence[Picture]) -> list[int]:
        """Classify one batch in the thread that owns the model."""
        return await asyncio.get_running_loop().run_in_executor(self._owner, self._model.best, pictures)


def _load() -> Model:
    from benchmarks.throughput.model import Model

    return Model.from_environment()
