"""From a model version's files to a network on a device."""

from __future__ import annotations

from typing import TYPE_CHECKING

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import nn

from alexq_schema.errors import ModelInvalidError
from alexq_worker.inference import architectures

if TYPE_CHECKING:
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
        state = safetensors.torch.load_file(version.weights_path)
    except (SafetensorError, OSError) as error:
        raise ModelInvalidError(f"model {info.ref}: cannot read {version.weights_path}: {error}") from error
    network = architectures.build(info.architecture, info.classes)
    architectures.check_fits(state, network, f"model {info.ref}: {version.weights_path.name}")
    # Copies, because load_file maps the file: what was verified must not change under the engine.
    network.load_state_dict(
        {
            name: tensor.to(device, dtype if tensor.is_floating_point() else tensor.dtype, copy=True)
            for name, tensor in state.items()
        },
        assign=True,
    )
    if dtype != torch.float32:
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network
