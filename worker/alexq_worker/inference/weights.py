"""From a model version's files to a network on a device."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from alexq_schema.errors import DeviceError, ModelInvalidError
from alexq_worker.inference import architectures
from alexq_worker.inference.alexnet2012 import AlexNet2012, TwoHalves

if TYPE_CHECKING:
    from pathlib import Path

    from alexq_schema.models import ModelVersion


def load_network(version: ModelVersion, devices: tuple[torch.device, ...], dtype: torch.dtype) -> nn.Module:
    """Return the verified network of a model version, its floating-point weights in ``dtype``.

    float[B, 3, H, W] -> float[B, classes] logits on the first of ``devices``; channels_last in anything but
    float32.

    Args:
        version: what to load.
        devices: one, or two for the halves of ``alexnet-2012``.
        dtype: what it computes in.

    Raises:
        ModelInvalidError: tampered or truncated files, or weights that do not fit the architecture.
        DeviceError: two devices for a network that has no halves.
    """
    info = version.info
    network = architectures.build(info.architecture, info.classes)
    if len(devices) > 1 and not isinstance(network, AlexNet2012):
        raise DeviceError(
            f"two devices are for the halves of alexnet-2012; model {info.ref} is of {info.architecture}: "
            "set ALEXQ_DEVICE to one device, and start a worker for each"
        )
    state = read_state(version, torch.device("cpu") if len(devices) > 1 else devices[0], dtype)
    architectures.check_fits(state, network, f"model {info.ref}: {version.weights_path}")
    if len(devices) > 1:
        return TwoHalves(state, (devices[0], devices[1]))
    network.load_state_dict(state, assign=True)
    if dtype != torch.float32:
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network


def read_state(version: ModelVersion, device: torch.device, dtype: torch.dtype) -> dict[str, Tensor]:
    """Return copies of a version's tensors on ``device``, floating-point ones in ``dtype``.

    Raises:
        ModelInvalidError: the file is not what ``model.json`` says, or no readable safetensors, or holds
            numbers that are not finite.
    """
    info = version.info
    version.verify_weights()
    what = f"model {info.ref}: {version.weights_path}"
    state = {}
    try:
        # Copies, because the file is mapped: what was verified must not change under the engine.
        for name, tensor in _mapped_tensors(version.weights_path):
            architectures.check_finite({name: tensor}, what)
            target = dtype if tensor.is_floating_point() else tensor.dtype
            state[name] = tensor.to(device, target, copy=True)
    except (SafetensorError, OSError) as error:
        raise ModelInvalidError(f"model {info.ref}: cannot read {version.weights_path}: {error}") from error
    return state


def _mapped_tensors(path: Path) -> Iterator[tuple[str, Tensor]]:
    """Yield each tensor of a file, in a mapping of its own, whose pages go when the next one is asked for."""
    with safe_open(path, "pt") as file:
        names = list(file.keys())
    for name in names:
        with safe_open(path, "pt") as file:
            yield name, file.get_tensor(name)
