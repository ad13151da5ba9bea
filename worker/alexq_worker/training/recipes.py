"""How a training goes: the paper's recipe, and a modern one.

Sources: Krizhevsky, Sutskever, Hinton 2012, section 5 (SGD, momentum 0.9, weight decay 0.0005, the rate
divided by ten, dropout 0.5); Loshchilov and Hutter 2017, 2019 (cosine, AdamW); Szegedy et al. 2016 (label
smoothing).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final, Literal

import torch
from torch import nn

from alexq_schema.training import TrainModel


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a step, beside the data."""

    name: str
    optimiser: Literal["sgd", "adamw"]
    schedule: Literal["steps", "cosine"]
    epochs: int
    batch: int
    learning_rate: float
    weight_decay: float
    label_smoothing: float
    dropout: float
    """Before the head, where only that is trained; networks bring their own."""
    pca_colour: bool
    """The paper's changes of colour along the training set's principal components."""
    smallest_crop: float
    """Share of the picture's area that a random crop has at least; 1: only its place is random."""
    mixed_precision: bool

    def rate(self, step: int, steps: int) -> float:
        """Return the learning rate of step ``step`` of ``steps``."""
        if self.schedule == "steps":
            return self.learning_rate * 0.1 ** (3 * step // steps)
        warm_up = max(1, steps // 20)
        if step < warm_up:
            return self.learning_rate * (step + 1) / warm_up
        return self.learning_rate * (1 + math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up))) / 2

    def make_optimiser(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """Return the optimiser of ``parameters``; :meth:`rate` sets its learning rate."""
        if self.optimiser == "sgd":
            return torch.optim.SGD(
                parameters, lr=self.learning_rate, momentum=0.9, weight_decay=self.weight_decay
            )
        return torch.optim.AdamW(parameters, lr=self.learning_rate, weight_decay=self.weight_decay)


_PAPER: Final = Recipe(
    name="paper",
    optimiser="sgd",
    schedule="steps",
    epochs=90,
    batch=128,
    learning_rate=0.01,
    weight_decay=5e-4,
    label_smoothing=0.0,
    dropout=0.5,
    pca_colour=True,
    smallest_crop=1.0,
    mixed_precision=False,
)
_MODERN: Final = Recipe(
    name="modern",
    optimiser="adamw",
    schedule="cosine",
    epochs=60,
    batch=128,
    learning_rate=3e-4,
    weight_decay=0.05,
    label_smoothing=0.1,
    dropout=0.2,
    pca_colour=False,
    smallest_crop=0.35,
    mixed_precision=True,
)
_OF_A_HEAD: Final = {
    "paper": {"epochs": 60, "batch": 32, "learning_rate": 0.003},
    "modern": {"epochs": 60, "batch": 32, "learning_rate": 1e-3},
}
"""A head alone has a few thousand weights and cached inputs: smaller batches, more steps."""


def recipe_of(request: TrainModel, device: torch.device) -> Recipe:
    """Return the recipe that ``request`` names, with what else it asks for."""
    recipe = {"paper": _PAPER, "modern": _MODERN}[request.recipe]
    if request.method == "transfer":
        recipe = replace(recipe, **_OF_A_HEAD[request.recipe])  # type: ignore[arg-type]
    given = {
        name: value
        for name in ("epochs", "batch", "learning_rate")
        if (value := getattr(request, name)) is not None
    }
    mixed = request.mixed_precision
    if mixed is None:
        mixed = recipe.mixed_precision and device.type == "cuda"
    return replace(recipe, mixed_precision=mixed, **given)
