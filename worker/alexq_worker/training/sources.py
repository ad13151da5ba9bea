"""Where a training's batches come from, in an order that is a function of seed and epoch alone."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from alexq_schema.model_info import Preprocessing
from alexq_worker.inference.decode import Decoder
from alexq_worker.inference.normalise import Normalisation
from alexq_worker.training.augmentation import Augmentation
from alexq_worker.training.dataset import Sample
from alexq_worker.training.distributed import Group

Batch = tuple[Tensor, Tensor]
"""Inputs and the targets int64[B], on the device."""
_AHEAD = 3
"""Batches that are being decoded while one is learnt from."""


class Source(Protocol):
    """Gives the batches of an epoch."""

    @property
    def size(self) -> int:
        """Examples in an epoch, of all processes."""

    def batches(self, epoch: int, batch: int, first: int) -> Generator[Batch]:
        """Yield this process's part of the batches from number ``first`` of ``epoch``, ``batch`` together."""


def shares(order: NDArray[np.int64], batch: int, first: int, group: Group) -> Iterator[NDArray[np.int64]]:
    """Yield this process's part of each batch; all processes' parts together are the batch."""
    for start in range(first * batch, len(order), batch):
        yield order[start : start + batch][group.rank :: group.size]


def order_of(seed: int, epoch: int, size: int) -> NDArray[np.int64]:
    """Return the order of an epoch."""
    return np.random.default_rng([seed, epoch]).permutation(size)


class FeatureSource:
    """Frozen features, kept in memory: in each epoch every picture as it is or mirrored."""

    def __init__(self, features: Tensor, targets: Tensor, seed: int, group: Group) -> None:
        """Take float[views, N, F] and int64[N], both on the device."""
        self._features = features
        self._targets = targets
        self._seed = seed
        self._group = group

    @property
    def size(self) -> int:
        return len(self._targets)

    def batches(self, epoch: int, batch: int, first: int) -> Generator[Batch]:
        chance = np.random.default_rng([self._seed, epoch, 1])
        views = chance.integers(0, len(self._features), self.size)
        for share in shares(order_of(self._seed, epoch, self.size), batch, first, self._group):
            index = torch.from_numpy(share).to(self._targets.device)
            view = torch.from_numpy(views[share]).to(self._targets.device)
            yield self._features[view, index], self._targets[index]


class PictureSource:
    """Pictures from files, decoded and changed by threads, some batches ahead."""

    def __init__(
        self,
        samples: Sequence[Sample],
        decoder: Decoder,
        augmentation: Augmentation,
        to_input: Normalisation,
        *,
        device: torch.device,
        seed: int,
        threads: int,
        group: Group,
    ) -> None:
        self._samples = samples
        self._decoder = decoder
        self._augmentation = augmentation
        self._to_input = to_input
        self._device = device
        self._seed = seed
        self._threads = threads
        self._group = group

    @property
    def size(self) -> int:
        return len(self._samples)

    def batches(self, epoch: int, batch: int, first: int) -> Generator[Batch]:
        parts = shares(order_of(self._seed, epoch, self.size), batch, first, self._group)

        def picture(index: int) -> NDArray[np.uint8]:
            chance = np.random.default_rng([self._seed, epoch, 2, index])
            data = self._samples[index].path.read_bytes()
            return self._augmentation(self._decoder.decode(data).image, chance)

        with ThreadPoolExecutor(self._threads, "alexq-decode") as pool:
            for share, pictures in _ahead(pool, picture, parts):
                targets = torch.tensor([self._samples[index].target for index in share], dtype=torch.int64)
                yield (
                    self._to_input(stacked(pictures, self._augmentation.side, self._device)),
                    targets.to(self._device),
                )


def as_served(
    samples: Sequence[Sample],
    preprocessing: Preprocessing,
    decoder: Decoder,
    *,
    batch: int,
    device: torch.device,
    threads: int,
) -> Iterator[Batch]:
    """Yield the samples' inputs in order, through the decoder and normalisation of a worker."""
    to_input = Normalisation(preprocessing, device, torch.float32)
    order = np.arange(len(samples))
    parts = (order[start : start + batch] for start in range(0, len(samples), batch))
    with ThreadPoolExecutor(threads, "alexq-decode") as pool:
        for share, pictures in _ahead(pool, lambda index: _decoded(samples[index], decoder), parts):
            targets = torch.tensor([samples[index].target for index in share], dtype=torch.int64)
            yield to_input(stacked(pictures, preprocessing.crop, device)), targets.to(device)


def stacked(pictures: Sequence[NDArray[np.uint8]], side: int, device: torch.device) -> Tensor:
    """Return uint8[B, side, side, 3] on the device."""
    together = np.stack(pictures) if pictures else np.empty((0, side, side, 3), np.uint8)
    return torch.from_numpy(together).to(device)


def _decoded(sample: Sample, decoder: Decoder) -> NDArray[np.uint8]:
    return np.asarray(decoder.decode(sample.path.read_bytes()).image)


def _ahead(
    pool: ThreadPoolExecutor,
    make: Callable[[int], NDArray[np.uint8]],
    parts: Iterator[NDArray[np.int64]],
) -> Iterator[tuple[NDArray[np.int64], list[NDArray[np.uint8]]]]:
    """Yield each part with what ``make`` made of its numbers, while the next parts are in the making."""
    waiting: deque[tuple[NDArray[np.int64], list[Future[NDArray[np.uint8]]]]] = deque()
    try:
        for part in parts:
            waiting.append((part, [pool.submit(make, int(index)) for index in part]))
            if len(waiting) > _AHEAD:
                share, futures = waiting.popleft()
                yield share, [future.result() for future in futures]
        while waiting:
            share, futures = waiting.popleft()
            yield share, [future.result() for future in futures]
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
