"""Make model versions: seeded untrained weights, torchvision's pretrained ones, somebody's own."""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from alexq_schema.errors import ModelDownloadError, ModelInvalidError
from alexq_schema.models import ModelStore, ModelVersion
from alexq_schema.training import TrainingInfo
from alexq_worker.inference import architectures, int8
from alexq_worker.inference.download import fetch_state_dict
from alexq_worker.inference.torchvision_ops import import_torchvision
from alexq_worker.inference.version_folders import find_intact, write_version

PRETRAINED_REF = "alexnet/imagenet1k-v1"


def create_untrained(store: ModelStore, seed: int = 0) -> ModelVersion:
    """Return ``alexnet/untrained-seed<seed>``: ImageNet's labels on seeded random weights.

    The weights are uniform with He's variance (He et al. 2015, arXiv:1502.01852, eq. 10), biases 0:
    activations keep their size through the ReLU layers, so that the probabilities are far from
    uniform and differ from image to image, where torch's own initialisation gives 0.001 to every
    class. They are drawn with NumPy and scaled in separate fp32 steps: the same bytes on every
    machine, and torch's global generator is left alone.

    Raises:
        ModelError: the models folder cannot be written, or holds another version of this name.
    """
    ref = f"alexnet/untrained-seed{seed}"
    if (there := find_intact(store, ref)) is not None:
        return there
    labels = _imagenet_labels()
    generator = np.random.default_rng(seed)
    state = {}
    for name, tensor in architectures.build("alexnet", len(labels)).state_dict().items():
        values = np.zeros(tensor.shape, np.float32)
        if name.endswith(".weight"):
            fan_in = values[0].size
            generator.random(out=values, dtype=np.float32)  # [0, 1)
            values *= 2
            values -= 1
            values *= np.float32((6 / fan_in) ** 0.5)
        state[name] = torch.from_numpy(values)
    return write_version(
        store, ref, "alexnet", state, labels, trained=False, source=f"random, NumPy seed {seed}"
    )


def pull(store: ModelStore, *, url: str | None = None, progress: bool) -> ModelVersion:
    """Return ``alexnet/imagenet1k-v1``: torchvision's pretrained AlexNet, downloaded unless it is there.

    Args:
        store: the models folder.
        url: a mirror of torchvision's file; its name must carry the file's hash, as
            ``alexnet-owt-7be5be79.pth`` does, and that hash is what is trusted.
        progress: whether to draw a progress bar on stderr.

    Raises:
        UsageError: ``url`` is not HTTP(S) or its file name carries no hash.
        ModelDownloadError: the weights could not be had, or are not AlexNet's.
        ModelError: the models folder cannot be written, or holds another version of this name.
    """
    if (there := find_intact(store, PRETRAINED_REF)) is not None:
        return there
    url = url or str(import_torchvision().models.AlexNet_Weights.IMAGENET1K_V1.url)
    state = fetch_state_dict(url, progress=progress)
    labels = _imagenet_labels()
    try:
        state = _checked(state, "alexnet", labels, f"the file at {url}")
    except ModelInvalidError as error:
        raise ModelDownloadError(f"{error}; name another mirror with --url") from error
    return write_version(store, PRETRAINED_REF, "alexnet", state, labels, trained=True, source=url)


def import_model(
    store: ModelStore, ref: str, weights: Path, labels: Path, architecture: str = "alexnet"
) -> ModelVersion:
    """Add somebody's trained weights as the version ``ref``.

    Args:
        store: the models folder.
        ref: ``name/version``, free or already this very version.
        weights: a state dict, as ``.safetensors`` or as ``torch.save`` writes it.
        labels: UTF-8, one label a line in class-index order.
        architecture: a name that :mod:`.architectures` knows; its preprocessing becomes the version's.

    Raises:
        ModelInvalidError: the files cannot be read, do not fit together or the architecture, hold
            numbers that are not finite, or a pickle that needs more than tensors.
        ModelNotFoundError: ``ref`` is not of the form name/version.
        ModelError: the models folder cannot be written.
    """
    store.folder(ref)  # refuse a malformed name before reading 200 MB
    names = _read_labels(labels)
    state = _checked(_read_state(weights), architecture, names, str(weights))
    source = f"imported from {weights.name}"
    return write_version(store, ref, architecture, state, names, trained=True, source=source)


def add_trained(
    store: ModelStore,
    ref: str,
    architecture: str,
    state: Mapping[str, Tensor],
    labels: Sequence[str],
    *,
    source: str,
    training: TrainingInfo,
) -> ModelVersion:
    """Add what a training made as the version ``ref``; raises as :func:`import_model`."""
    whole = _checked(state, architecture, labels, "what was trained")
    return write_version(
        store, ref, architecture, whole, labels, trained=True, source=source, training=training
    )


def add_quantised(
    store: ModelStore,
    ref: str,
    version: ModelVersion,
    state: Mapping[str, Tensor],
    scales: Mapping[str, Tensor],
    **facts: Any,
) -> ModelVersion:
    """Add an fp32 ``version`` once more as ``ref``, with ``scales`` for int8 beside its tensors in ``state``.

    Raises: as :func:`import_model`. ``facts`` are ``agreement`` and ``quantisation``.
    """
    info = version.info
    tensors = {**state, **{f"{int8.PREFIX}{name}": tensor for name, tensor in scales.items()}}
    facts |= {"preprocessing": info.preprocessing, "precision": "int8"}
    labels = version.read_labels()
    return write_version(
        store, ref, info.architecture, tensors, labels, trained=info.trained, source=info.source, **facts
    )


def _imagenet_labels() -> list[str]:
    return list(import_torchvision().models.AlexNet_Weights.IMAGENET1K_V1.meta["categories"])


def _read_labels(path: Path) -> list[str]:
    try:
        labels = [line.strip() for line in path.read_text("utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise ModelInvalidError(f"cannot read the labels in {path} as UTF-8 text: {error}") from error
    if len(labels) < 2 or not all(labels):
        raise ModelInvalidError(f"{path} must hold one label a line, at least two and none of them empty")
    return labels


def _read_state(path: Path) -> Mapping[str, Tensor]:
    """Return the tensors in a weights file; nothing in it is run."""
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelInvalidError(
            f"{path} holds more than tensors, and alexq runs no code from a weights file: "
            "save model.state_dict() with torch.save or safetensors and import that"
        ) from error
    except (SafetensorError, OSError, RuntimeError, ValueError, EOFError, LookupError) as error:
        reason = (str(error) or "the file is cut short").splitlines()[0]
        raise ModelInvalidError(f"cannot read the weights in {path}: {reason}") from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ModelInvalidError(f"{path} is not a state dict: save model.state_dict() and import that")
    return state


def _checked(
    state: Mapping[str, Tensor], architecture: str, labels: Sequence[str], what: str
) -> dict[str, Tensor]:
    """Return ``state`` as contiguous fp32 copies, if it fits the architecture and the labels."""
    known = architectures.find_architecture(architecture)
    state = {name: tensor for name, tensor in state.items() if not name.startswith(known.auxiliary)}
    head = state.get(f"{known.head}.weight")
    if head is not None and head.dim() and len(head) != len(labels):
        raise ModelInvalidError(
            f"{what} has {len(head)} outputs, the label list {len(labels)} labels: they must be the same"
        )
    architectures.check_fits(state, architectures.build(architecture, len(labels)), what)
    copies = {
        name: tensor.detach().to(
            "cpu", torch.float32 if tensor.is_floating_point() else tensor.dtype, copy=True
        )
        for name, tensor in state.items()
    }
    architectures.check_finite(copies, what)
    return {name: tensor.contiguous() for name, tensor in copies.items()}
