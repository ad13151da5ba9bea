"""From a model version's files to a network on a device."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from alexq_schema.errors import ModelInvalidError
from alexq_worker.inference import architectures

if TYPE_CHECKING:
    from pathlib import Path

    from alexq_schema.models import ModelVersion


def load_network(version: ModelVersion, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """Return the verified network of a model version, its floating-point weights in ``dtype`` on ``device``.

    float[B, 3, H, W] -> float[B, classes] logits; channels_last in anything but float32.

    Raises:
        ModelInvalidError: tampered or truncated files, or weights that do not fit the architecture.
    """
    info = version.info
    version.verify_weights()
    try:
        # Copies, because the file is mapped: what was verified must not change under the engine.
        state = {
            name: tensor.to(device, dtype if tensor.is_floating_point() else tensor.dtype, copy=True)
            for name, tensor in _mapped_tensors(version.weights_path)
        }
    except (SafetensorError, OSError) as error:
        raise ModelInvalidError(f"model {info.ref}: cannot read {version.weights_path}: {error}") from error
    network = architectures.build(info.architecture, info.classes)
    architectures.check_fits(state, network, f"model {info.ref}: {version.weights_path.name}")
    network.load_state_dict(state, assign=True)
    if dtype != torch.float32:
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network


def _mapped_tensors(path: Path) -> Iterator[tuple[str, Tensor]]:
    """Yield each tensor of a file, in a mapping of its own, whose pages go when the next one is asked for."""
    with safe_open(path, "pt") as file:
        names = list(file.keys())
    for name in names:
        with safe_open(path, "pt") as file:
            yield name, file.get_tensor(name)
