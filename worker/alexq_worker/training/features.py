"""Frozen features: what a network's head is given for each picture, computed once and kept on disk."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from alexq_schema.errors import TrainingError
from alexq_worker.training.dataset import Dataset
from alexq_worker.training.sources import Batch

_KEPT_FILES: Final = 4


@dataclass(frozen=True)
class Features:
    """float32 on the host."""

    train: Tensor
    """[2, N, F]: as they are, and mirrored."""
    held_out: Tensor
    """[M, F]"""


class FeatureCache:
    """Files of features; the oldest go."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def get(self, weights_sha256: str, dataset: Dataset, compute: Callable[[], Features]) -> Features:
        """Return the features of these weights and this data: from the file, else computed and kept."""
        key = hashlib.sha256(f"{weights_sha256} {dataset.sha256}".encode()).hexdigest()[:32]
        path = self._folder / f"{key}.safetensors"
        try:
            kept = safetensors.torch.load_file(path)
            path.touch()
            return Features(kept["train"], kept["held_out"])
        except (OSError, SafetensorError, KeyError):
            pass  # not there, or damaged: made again
        features = compute()
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            draft = path.with_suffix(".tmp")
            safetensors.torch.save_file({"train": features.train, "held_out": features.held_out}, draft)
            draft.replace(path)
            by_age = sorted(self._folder.glob("*.safetensors"), key=lambda file: file.stat().st_mtime)
            for old in by_age[:-_KEPT_FILES]:
                old.unlink(missing_ok=True)
        except (OSError, SafetensorError) as error:
            raise TrainingError(f"cannot keep the features in {self._folder}: {error}") from error
        return features


def head_inputs(
    network: nn.Module, head: str, batches: Iterator[Batch], views: Sequence[Callable[[Tensor], Tensor]]
) -> Tensor:
    """Return what the layer ``head`` is given, float32[len(views), N, F] on the host."""
    parts: list[list[Tensor]] = [[] for _ in views]
    with torch.inference_mode(), _seen_by(network.get_submodule(head)) as seen:
        for inputs, _ in batches:
            for view, part in zip(views, parts, strict=True):
                network(view(inputs))
                part.append(seen.pop().float().cpu().clone())
    return torch.stack([torch.cat(part) for part in parts])


@contextmanager
def _seen_by(layer: nn.Module) -> Iterator[list[Tensor]]:
    seen: list[Tensor] = []

    def note(_layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen.append(inputs[0])

    hook = layer.register_forward_pre_hook(note)
    try:
        yield seen
    finally:
        hook.remove()


def mirrored(inputs: Tensor) -> Tensor:
    """Return the mirror images."""
    return inputs.flip(-1)


def unchanged(inputs: Tensor) -> Tensor:
    """Return the inputs."""
    return inputs


@dataclass(frozen=True)
class Standardisation:
    """Features with mean 0 and deviation 1, so that one learning rate suits all; folded into the head."""

    mean: Tensor
    deviation: Tensor

    @classmethod
    def of(cls, features: Tensor) -> Standardisation:
        """Return that of [..., F]; a feature that never changes keeps its scale."""
        flat = features.flatten(0, -2)
        deviation = flat.std(0)
        return cls(flat.mean(0), torch.where(deviation > 1e-6, deviation, 1.0))

    def __call__(self, features: Tensor) -> Tensor:
        """Return the features standardised."""
        return (features - self.mean) / self.deviation

    def folded(self, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """Return the head that does on plain features what this one does on standardised ones."""
        weight = weight / self.deviation
        return weight, bias - weight @ self.mean
