"""The two ways to train: a new head on frozen features, or every weight."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from alexq_schema.model_info import Preprocessing
from alexq_schema.settings import Settings
from alexq_worker.inference.decode import Decoder
from alexq_worker.inference.normalise import Normalisation
from alexq_worker.training.augmentation import SAMPLED_PICTURES, Augmentation, PcaColour
from alexq_worker.training.dataset import Dataset, Sample
from alexq_worker.training.distributed import Group
from alexq_worker.training.features import (
    FeatureCache,
    Features,
    Standardisation,
    head_inputs,
    mirrored,
    unchanged,
)
from alexq_worker.training.measuring import shared_out
from alexq_worker.training.recipes import Recipe
from alexq_worker.training.sources import Batch, FeatureSource, PictureSource, Source, as_served
from alexq_worker.training.starts import Start
from alexq_worker.training.telling import Teller

_TOGETHER = 64
"""Pictures in one forward pass without gradients."""


@dataclass(frozen=True)
class Task:
    """What a loop works on, and how its result becomes the state dict of a version."""

    network: nn.Module
    source: Source
    held_out: Callable[[], Iterator[Batch]]
    finish: Callable[[dict[str, Tensor]], dict[str, Tensor]]


@dataclass(frozen=True)
class Workshop:
    """Where and with what a training is done."""

    settings: Settings
    device: torch.device
    group: Group
    teller: Teller
    seed: int

    def as_served(self, samples: list[Sample], preprocessing: Preprocessing) -> Iterator[Batch]:
        """Yield the samples as a worker would see them."""
        return as_served(
            samples,
            preprocessing,
            Decoder(preprocessing, self.settings.max_image_pixels),
            batch=_TOGETHER,
            device=self.device,
            threads=self.settings.decode_threads,
        )


def transfer(shop: Workshop, start: Start, dataset: Dataset, recipe: Recipe, cache: Path) -> Task:
    """Return the task of training a new head on the frozen features of ``start``."""
    features = _features(shop, start, dataset, FeatureCache(cache))
    standard = Standardisation.of(features.train)
    train = standard(features.train).to(shop.device)
    held_out = standard(features.held_out).to(shop.device)
    head = nn.Linear(train.shape[-1], len(dataset.labels))
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)

    def finish(best: dict[str, Tensor]) -> dict[str, Tensor]:
        return start.with_head(*standard.folded(best["1.weight"], best["1.bias"]))

    return Task(
        nn.Sequential(nn.Dropout(recipe.dropout), head).to(shop.device),
        FeatureSource(train, _targets(dataset.train, shop.device), shop.seed, shop.group),
        shared_out(held_out, _targets(dataset.held_out, shop.device), 16 * _TOGETHER, shop.group),
        finish,
    )


def full(shop: Workshop, start: Start, dataset: Dataset, recipe: Recipe) -> Task:
    """Return the task of training every weight, from ``start`` or from random ones."""
    preprocessing = start.preprocessing
    # The paper's 256 × 256 middle of each picture, of which crops are taken.
    whole = preprocessing.model_copy(update={"crop": preprocessing.resize})
    decoder = Decoder(whole, shop.settings.max_image_pixels)
    colour = None
    if recipe.pca_colour:
        some = dataset.train[:: max(1, len(dataset.train) // SAMPLED_PICTURES)]
        colour = PcaColour.of(np.asarray(decoder.decode(one.path.read_bytes()).image) for one in some)
    source = PictureSource(
        dataset.train,
        decoder,
        Augmentation(preprocessing.crop, recipe.smallest_crop, colour),
        Normalisation(preprocessing, shop.device, torch.float32),
        device=shop.device,
        seed=shop.seed,
        threads=shop.settings.decode_threads,
        group=shop.group,
    )
    held_out = dataset.held_out[shop.group.rank :: shop.group.size]
    return Task(
        start.network(len(dataset.labels), shop.seed).to(shop.device),
        source,
        lambda: shop.as_served(held_out, preprocessing),
        dict,
    )


def _features(shop: Workshop, start: Start, dataset: Dataset, cache: FeatureCache) -> Features:
    def compute() -> Features:
        network = start.frozen().to(shop.device)

        def of(samples: list[Sample], *views: Callable[[Tensor], Tensor]) -> Tensor:
            batches = shop.as_served(samples, start.preprocessing)
            total = -(-len(samples) // _TOGETHER)
            shown = shop.teller.count("features", batches, total)
            return head_inputs(network, start.head, shown, views)

        return Features(of(dataset.train, unchanged, mirrored), of(dataset.held_out, unchanged)[0])

    def get() -> Features:
        return cache.get(start.sha256, dataset, compute)

    if shop.group.size > 1:  # the others find them in the file
        shop.group.from_first(lambda: len(get().train))
    return get()


def _targets(samples: list[Sample], device: torch.device) -> Tensor:
    return torch.tensor([sample.target for sample in samples], dtype=torch.int64, device=device)
