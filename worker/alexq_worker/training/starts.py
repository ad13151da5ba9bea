"""What a training begins from."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from alexq_schema.errors import ModelError, TrainingError
from alexq_schema.model_info import Preprocessing
from alexq_schema.models import ModelStore
from alexq_schema.training import TrainModel
from alexq_worker.inference import architectures
from alexq_worker.inference.versions import PRETRAINED_REF
from alexq_worker.inference.weights import load_network
from alexq_worker.training.seeded import seeded_state

SEEDED = "generated features"
"""What stands for them where a version's name would."""


@dataclass(frozen=True)
class Start:
    """Weights to begin from."""

    architecture: str
    preprocessing: Preprocessing
    name: str | None
    """A version, or generated features; None: at random."""
    state: dict[str, Tensor]
    """Of every layer, on the host; empty where the weights begin at random."""
    classes: int
    """That ``state`` tells apart."""

    @property
    def head(self) -> str:
        """The name of the layer that is new."""
        return architectures.find_architecture(self.architecture).head

    @property
    def sha256(self) -> str:
        """Hash of the weights."""
        digest = hashlib.sha256(f"{self.architecture} {self.preprocessing}".encode())
        for name in sorted(self.state):
            digest.update(name.encode())
            digest.update(self.state[name].contiguous().numpy().data)
        return digest.hexdigest()

    def frozen(self) -> nn.Module:
        """Return the network of ``state``, in eval mode."""
        network = architectures.build(self.architecture, self.classes)
        network.load_state_dict(self.state, assign=True)
        return network

    def network(self, classes: int, seed: int) -> nn.Module:
        """Return a network with a head of its own for ``classes``; its values come from ``seed``."""
        torch.manual_seed(seed)
        network = architectures.find_architecture(self.architecture).build(classes)
        body = {name: t for name, t in self.state.items() if not name.startswith(f"{self.head}.")}
        network.load_state_dict(body, strict=False)
        return network

    def with_head(self, weight: Tensor, bias: Tensor) -> dict[str, Tensor]:
        """Return ``state`` with another head."""
        return {**self.state, f"{self.head}.weight": weight, f"{self.head}.bias": bias}


def find_start(request: TrainModel, store: ModelStore) -> Start:
    """Return what ``request`` begins from.

    Without a base, a transfer begins from the pretrained AlexNet where it has been pulled, else from
    generated features; a full training begins at random.

    Raises:
        ModelError: there is no such version, it is damaged, or of another architecture.
        TrainingError: a transfer to this architecture needs a base, or its head is no linear layer.
    """
    ref = request.base
    wanted = request.architecture
    if (
        ref is None
        and request.method == "transfer"
        and wanted in (None, "alexnet")
        and _has(store, PRETRAINED_REF)
    ):
        ref = PRETRAINED_REF
    if ref is not None:
        start = _of_version(store, ref)
        if wanted not in (None, start.architecture):
            raise TrainingError(f"{ref} is of architecture {start.architecture}, not {wanted}")
    elif request.method == "full":
        architecture = wanted or "alexnet"
        start = Start(architecture, preprocessing_of(architecture), None, {}, 0)
    elif wanted in (None, "alexnet"):
        start = Start("alexnet", preprocessing_of("alexnet"), SEEDED, seeded_state(2), 2)
    else:
        raise TrainingError(f"there are no features of {wanted} to begin from: name a version with --from")
    if request.method == "transfer" and not isinstance(start.frozen().get_submodule(start.head), nn.Linear):
        raise TrainingError(f"the head of {start.architecture} is no linear layer: use --method full")
    return start


def preprocessing_of(architecture: str) -> Preprocessing:
    """Return the preprocessing of new versions of an architecture."""
    return architectures.find_architecture(architecture).preprocessing


def _of_version(store: ModelStore, ref: str) -> Start:
    version = store.find(ref)
    state = load_network(version, (torch.device("cpu"),), "fp32").state_dict()
    info = version.info
    return Start(info.architecture, info.preprocessing, ref, dict(state), info.classes)


def _has(store: ModelStore, ref: str) -> bool:
    try:
        store.find(ref)
    except ModelError:
        return False
    return True
