"""The networks that a model version can name."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from alexq_schema.errors import ModelInvalidError
from alexq_schema.model_info import Preprocessing
from alexq_worker.inference import torchvision_models
from alexq_worker.inference.alexnet2012 import SIDE, AlexNet2012

_IMAGENET = Preprocessing()


@dataclass(frozen=True)
class Architecture:
    """How to build one network, where its label list ends up, and what its input is."""

    build: Callable[[int], nn.Module]
    """From the number of classes K to a network float[B, 3, H, W] -> float[B, K] (logits)."""
    head: str
    """The last layer's name in the state dict; its weight has one row a class."""
    preprocessing: Preprocessing = _IMAGENET
    """Of versions whose author names no other."""
    auxiliary: tuple[str, ...] = ()
    """How names of tensors begin that files may hold for training only; they are left out."""


def _alexnet(classes: int) -> nn.Module:
    # Krizhevsky 2014, arXiv:1404.5997: the single-tower variant that torchvision ships.
    return torchvision_models.build("alexnet", classes)


ARCHITECTURES: dict[str, Architecture] = {
    "alexnet": Architecture(build=_alexnet, head="classifier.6"),
    "alexnet-2012": Architecture(
        build=AlexNet2012, head="classifier.fc8", preprocessing=Preprocessing(crop=SIDE)
    ),
}
"""The networks of alexq's own; every other name is looked up among torchvision's."""


def find_architecture(name: str) -> Architecture:
    """Return the architecture of this name.

    Raises:
        ModelInvalidError: there is none; lists the known names that are like it.
    """
    return ARCHITECTURES.get(name) or _of_torchvision(name)


@cache
def _of_torchvision(name: str) -> Architecture:
    known = torchvision_models.names()
    if name not in known:
        every = [*ARCHITECTURES, *known]
        near = ", ".join(difflib.get_close_matches(name, every, n=4, cutoff=0.5)) or ", ".join(ARCHITECTURES)
        raise ModelInvalidError(
            f"architecture {name!r} is unknown (near: {near}): it must be {', '.join(ARCHITECTURES)} "
            f"or one of torchvision's {len(known)} classification models"
        )

    def build_it(classes: int) -> nn.Module:
        return torchvision_models.build(name, classes)

    return Architecture(
        build=build_it,
        head=_head(build_it),
        preprocessing=torchvision_models.preprocessing(name),
        auxiliary=torchvision_models.auxiliary(name),
    )


def _head(build_it: Callable[[int], nn.Module]) -> str:
    """Return the name of the layer whose weight's shape depends on the number of classes."""
    two, three = (_without_values(build_it, classes).state_dict() for classes in (2, 3))
    (head,) = {name.rpartition(".")[0] for name in two if two[name].shape != three[name].shape}
    return head


def build(name: str, classes: int) -> nn.Module:
    """Return the network ``name`` with ``classes`` outputs, in eval mode, its parameters on the meta device.

    They have shapes but no values: give it a state dict with ``load_state_dict(state, assign=True)``.
    So nothing is initialised in vain and torch's global random generator is left alone.

    Raises:
        ModelInvalidError: the architecture is unknown.
    """
    return _without_values(find_architecture(name).build, classes).eval()


def _without_values(build_it: Callable[[int], nn.Module], classes: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]), _EmptyOnMeta():
        return build_it(classes)


class _EmptyOnMeta(TorchFunctionMode):
    """Makes only ``torch.empty`` give tensors without values.

    ``torch.device("meta")`` makes every function do so, and RegNet computes its widths with tensors.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        options = kwargs or {}
        if func is torch.empty:
            options = {**options, "device": "meta"}
        return func(*args, **options)


def check_fits(state: Mapping[str, Tensor], network: nn.Module, what: str) -> None:
    """Check that ``state`` has exactly the tensors of ``network``, each of its shape and kind of number.

    Raises:
        ModelInvalidError: names what is missing, unexpected, of another shape or kind in ``what``.
    """
    check_tensors(state, network.state_dict(), what)


def check_tensors(state: Mapping[str, Tensor], expected: Mapping[str, Tensor], what: str) -> None:
    """Check that ``state`` has exactly the tensors of ``expected``, as :func:`check_fits` does."""
    both = sorted(expected.keys() & state.keys())
    problems = {
        "missing": sorted(expected.keys() - state.keys()),
        "unexpected": sorted(state.keys() - expected.keys()),
        "of another shape": [
            f"{name} {tuple(state[name].shape)}, not {tuple(expected[name].shape)}"
            for name in both
            if state[name].shape != expected[name].shape
        ],
        "of another kind of number": [
            f"{name} {_dtype(state[name])}, not {_dtype(expected[name])}"
            for name in both
            if _kind(state[name]) != _kind(expected[name])
        ],
    }
    texts = [f"{problem}: {_first(names)}" for problem, names in problems.items() if names]
    if texts:
        raise ModelInvalidError(f"{what} does not fit its architecture; {'; '.join(texts)}")


def check_finite(state: Mapping[str, Tensor], what: str) -> None:
    """Check that every number of ``state`` is one.

    Raises:
        ModelInvalidError: names the tensors in ``what`` that hold NaN or infinity.
    """
    floats = {name: tensor for name, tensor in state.items() if tensor.is_floating_point()}
    broken = [name for name, tensor in floats.items() if not tensor.float().isfinite().all()]
    if broken:
        raise ModelInvalidError(f"{what} has values that are not finite in {_first(broken)}")


def _kind(tensor: Tensor) -> str:
    return "float" if tensor.is_floating_point() else _dtype(tensor)


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _first(names: list[str], count: int = 4) -> str:
    rest = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(names[:count]) + rest
