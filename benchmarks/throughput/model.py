"""The decode and the forward that every contender runs: alexq's own, so that only the way there differs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import torch

from alexq_schema.models import ModelStore
from alexq_worker.inference.crops import Picture
from alexq_worker.inference.decode import Decoder
from alexq_worker.inference.engine import Engine

MAX_PIXELS = 50_000_000


class Model:
    """A decoder and a warm engine on the CPU."""

    def __init__(self, models_dir: str | Path, precision: str, max_batch: int, torch_threads: int) -> None:
        torch.set_num_threads(torch_threads)
        version = ModelStore(Path(models_dir)).resolve()
        self.decoder = Decoder(version.info.preprocessing, MAX_PIXELS)
        self.engine = Engine.load(version, device="cpu", precision=precision, max_batch=max_batch)
        self.engine.warm_up()
        self._batch = self.engine.new_batch()

    @classmethod
    def from_environment(cls) -> Model:
        """Return the model that the ``BENCH_`` variables describe: how a server's process gets it."""
        return cls(
            os.environ["BENCH_MODELS_DIR"],
            os.environ["BENCH_PRECISION"],
            int(os.environ.get("BENCH_MAX_BATCH", "1")),
            int(os.environ.get("BENCH_TORCH_THREADS", "1")),
        )

    def decode(self, image: bytes) -> Picture:
        """Return the resized and cropped picture of an encoded image."""
        return self.decoder.decode(image)

    def best(self, pictures: Sequence[Picture]) -> list[int]:
        """Return the best class of each picture; one batch."""
        for slot, picture in zip(self._batch, pictures, strict=False):
            picture.write_to(slot)
        found: list[int] = self.engine.classify(self._batch[: len(pictures)]).indices[:, 0].tolist()
        return found
