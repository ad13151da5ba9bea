"""The networks that a model version can name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from alexq_schema.errors import ModelInvalidError
from alexq_worker.inference.torchvision_ops import import_torchvision


@dataclass(frozen=True)
class Architecture:
    """How to build one network, and where its label list ends up."""

    build: Callable[[int], nn.Module]
    """From the number of classes K to a network float[B, 3, H, W] -> float[B, K] (logits)."""
    head: str
    """The last layer's name in the state dict; its bias has one entry a class."""


def _alexnet(classes: int) -> nn.Module:
    # Krizhevsky 2014, arXiv:1404.5997: the single-tower variant that torchvision ships.
    network: nn.Module = import_torchvision().models.alexnet(weights=None, num_classes=classes)
    return network


ARCHITECTURES: dict[str, Architecture] = {
    "alexnet": Architecture(build=_alexnet, head="classifier.6"),
}


def find_architecture(name: str) -> Architecture:
    """Return the architecture of this name.

    Raises:
        ModelInvalidError: there is none; lists the known names.
    """
    try:
        return ARCHITECTURES[name]
    except KeyError:
        known = ", ".join(sorted(ARCHITECTURES))
        raise ModelInvalidError(f"architecture {name!r} is unknown (known: {known})") from None


def build(name: str, classes: int) -> nn.Module:
    """Return the network ``name`` with ``classes`` outputs, in eval mode, on the meta device.

    It has shapes but no values: give it a state dict with ``load_state_dict(state, assign=True)``.
    So nothing is initialised in vain and torch's global random generator is left alone.

    Raises:
        ModelInvalidError: the architecture is unknown.
    """
    architecture = find_architecture(name)
    with torch.device("meta"):
        return architecture.build(classes).eval()


def check_fits(state: Mapping[str, Tensor], network: nn.Module, what: str) -> None:
    """Check that ``state`` has exactly the tensors of ``network``, each of its shape.

    Raises:
        ModelInvalidError: names what is missing, unexpected or of another shape in ``what``.
    """
    expected = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in state.items()}
    problems = {
        "missing": sorted(expected.keys() - found.keys()),
        "unexpected": sorted(found.keys() - expected.keys()),
        "of another shape": [
            f"{name} {found[name]}, not {expected[name]}"
            for name in sorted(expected.keys() & found.keys())
            if found[name] != expected[name]
        ],
    }
    texts = [f"{problem}: {_first(names)}" for problem, names in problems.items() if names]
    if texts:
        raise ModelInvalidError(f"{what} does not fit its architecture; {'; '.join(texts)}")


def _first(names: list[str], count: int = 4) -> str:
    rest = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(names[:count]) + rest
