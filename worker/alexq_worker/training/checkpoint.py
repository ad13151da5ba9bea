"""What a training needs to go on after its process was killed: one safetensors file with a header.

Nothing is pickled. Generators have no state to keep: what a step draws comes from the seed and its number.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from alexq_schema.errors import TrainingError


@dataclass
class Epoch:
    """One line of a training's history."""

    epoch: int
    """From 1."""
    learning_rate: float
    loss: float
    """Of the training batches, with what the recipe adds to it."""
    accuracy: float
    held_out_loss: float
    held_out_top1: float


@dataclass
class Progress:
    """How far a training is."""

    step: int = 0
    """Steps made."""
    loss_sum: float = 0.0
    """Over the pictures of the epoch in progress."""
    correct: float = 0.0
    seen: float = 0.0
    history: list[Epoch] = field(default_factory=list)
    is_stopped: bool = False
    """It learnt nothing more for as long as it was given."""

    @property
    def best(self) -> Epoch | None:
        """The epoch with the lowest held-out loss."""
        return min(self.history, key=lambda epoch: epoch.held_out_loss, default=None)


class Checkpoint:
    """The file of one training."""

    def __init__(self, path: Path, identity: dict[str, Any]) -> None:
        """Keep it at ``path``.

        Args:
            identity: what the training is of; a checkpoint of another one is refused.
        """
        self.path = path
        self._identity = identity

    def save(
        self,
        progress: Progress,
        network: nn.Module,
        optimiser: torch.optim.Optimizer,
        best: dict[str, Tensor],
    ) -> None:
        """Replace the file, on disk before the old one is gone.

        Raises:
            TrainingError: the file cannot be written.
        """
        tensors = {f"network/{name}": tensor for name, tensor in network.state_dict().items()}
        tensors |= {f"best/{name}": tensor for name, tensor in best.items()}
        for number, kept in optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser/{number}/{name}": tensor for name, tensor in kept.items()}
        told = {"identity": json.dumps(self._identity), "progress": json.dumps(asdict(progress))}
        draft = self.path.with_suffix(".tmp")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            copies = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
            safetensors.torch.save_file(copies, draft, metadata=told)
            with draft.open("rb") as file:
                os.fsync(file.fileno())
            draft.replace(self.path)
        except (OSError, SafetensorError) as error:
            raise TrainingError(f"cannot write the checkpoint {self.path}: {error}") from error

    def load(
        self, network: nn.Module, optimiser: torch.optim.Optimizer
    ) -> tuple[Progress, dict[str, Tensor]] | None:
        """Put the saved state into network and optimiser; return how far it was and the best weights so far.

        Returns None where there is no checkpoint.

        Raises:
            TrainingError: it is damaged, or of a training of something else; says what differs.
        """
        if not self.path.exists():
            return None
        try:
            with safe_open(self.path, "pt") as file:
                told = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no dict
            identity = json.loads(told["identity"])
            numbers = json.loads(told["progress"])
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise TrainingError(
                f"the checkpoint {self.path} is damaged ({error}): delete it and start again"
            ) from error
        self._require_same(identity)
        network.load_state_dict(_below("network/", tensors))
        state: dict[int, dict[str, Tensor]] = {}
        for name, tensor in _below("optimiser/", tensors).items():
            number, _, key = name.partition("/")
            state.setdefault(int(number), {})[key] = tensor
        groups = optimiser.state_dict()["param_groups"]
        optimiser.load_state_dict({"state": state, "param_groups": groups})
        history = [Epoch(**epoch) for epoch in numbers.pop("history")]
        return Progress(**numbers, history=history), _below("best/", tensors)

    def _require_same(self, identity: dict[str, Any]) -> None:
        differs = [
            f"{name} is {self._identity.get(name)!r} and was {identity.get(name)!r}"
            for name in sorted(identity.keys() | self._identity.keys())
            if identity.get(name) != self._identity.get(name)
        ]
        if differs:
            raise TrainingError(
                f"{self.path} is the checkpoint of another training: {'; '.join(differs)}. "
                "Go on with the same data and options, or leave --resume out to start again"
            )

    def remove(self) -> None:
        """Delete the file, if it is there."""
        self.path.unlink(missing_ok=True)


def _below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
