"""What ``model.json`` says of a version's training."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from alexq_schema.errors import UsageError
from alexq_schema.messages import Sha256


class HeldOut(BaseModel):
    """How good the version is on pictures that it was not trained on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    images: int
    loss: float
    """Cross-entropy, without label smoothing."""
    top1: float
    """Share whose label came first, 0 to 1."""
    top5: float
    per_class: dict[str, float]
    """Top-1 of each label's pictures."""


class TrainingInfo(BaseModel):
    """``training`` in ``model.json``: enough to do the same training again."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: str
    """``transfer``: a new head on frozen features; ``full``: every weight."""
    recipe: str
    base: str | None = None
    """Where the weights began: a version, or generated features; None: at random."""
    data_sha256: Sha256
    """Of the labels, the pictures' hashes, and which were held out."""
    images: int
    """Trained on."""
    seed: int
    epochs: int
    """That were run."""
    best_epoch: int
    """Whose weights these are, from 1."""
    batch: int
    learning_rate: float
    balanced: bool = False
    """Whether rare labels weighed more."""
    device: str
    torch: str
    """Its version: another one may round otherwise."""
    held_out: HeldOut
    classes: dict[str, int] = Field(default_factory=dict)
    """Pictures of each label that it was trained on."""


class TrainModel(BaseModel):
    """What to train: the options of ``alexq models train``, and the body of a training's message."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    data: Path
    """An absolute path: a folder of folders, or a CSV file."""
    ref: str
    """``name/version`` of the version to make."""
    base: str | None = None
    """``name/version`` to begin from."""
    architecture: str | None = None
    """By default the base's, else ``alexnet``."""
    method: Literal["transfer", "full"] = "transfer"
    recipe: Literal["modern", "paper"] = "modern"
    epochs: int | None = Field(default=None, ge=1)
    batch: int | None = Field(default=None, ge=1)
    learning_rate: float | None = Field(default=None, gt=0)
    seed: int = Field(default=0, ge=0, lt=2**32)
    held_out: float = Field(default=0.2, gt=0, lt=1)
    """Share of each label's pictures, where the data names none."""
    balanced: bool = False
    mixed_precision: bool | None = None
    """bfloat16 where it is safe; by default what the recipe says, on CUDA only."""
    patience: int = Field(default=0, ge=0)
    """Epochs without a lower held-out loss after which it stops; 0: it does not."""
    activate: bool = False

    @classmethod
    def of(cls, **options: Any) -> Self:
        """Return a request with these options.

        Raises:
            UsageError: names those that make no sense.
        """
        try:
            return cls(**options)
        except ValidationError as error:
            problems = "; ".join(
                f"{'.'.join(map(str, p['loc']))}={p.get('input')!r}: {p['msg']}" for p in error.errors()
            )
            raise UsageError(f"the training makes no sense: {problems}") from error
