"""From a model version's files to a network on a device."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from alexq_schema.errors import DeviceError, ModelError, ModelInvalidError
from alexq_schema.names import Precision
from alexq_worker.inference import architectures, int8
from alexq_worker.inference.alexnet2012 import AlexNet2012, TwoHalves
from alexq_worker.inference.forward import DTYPES

if TYPE_CHECKING:
    from pathlib import Path

    from alexq_schema.models import ModelVersion


def load_network(version: ModelVersion, devices: tuple[torch.device, ...], precision: Precision) -> nn.Module:
    """Return the verified network of a model version.

    float[B, 3, H, W] -> float[B, classes] logits on the first of ``devices``; channels_last in anything but
    fp32.

    Args:
        version: what to load.
        devices: one, or two for the halves of ``alexnet-2012``.
        precision: what it computes in; for ``int8`` its input is float32.

    Raises:
        ModelInvalidError: tampered or truncated files, or weights that do not fit the architecture.
        ModelError: ``int8`` of a version that was not quantised.
        DeviceError: two devices for a network that has no halves; ``int8`` on anything but an x86 CPU.
    """
    info, dtype = version.info, DTYPES[precision]
    what = f"model {info.ref}: {version.weights_path}"
    if precision == "int8":
        _check_int8(version, devices)
    network = _build(version)
    if len(devices) > 1 and not isinstance(network, AlexNet2012):
        raise DeviceError(
            f"two devices are for the halves of alexnet-2012; model {info.ref} is of {info.architecture}: "
            "set ALEXQ_DEVICE to one device, and start a worker for each"
        )
    state = read_state(version, torch.device("cpu") if len(devices) > 1 else devices[0], dtype)
    scales = _split_scales(state, is_quantised=info.precision == "int8", what=what)
    architectures.check_fits(state, network, what)
    if len(devices) > 1:
        return TwoHalves(state, (devices[0], devices[1]))
    network.load_state_dict(state, assign=True)
    if precision == "int8":
        head = architectures.find_architecture(info.architecture).head
        return int8.quantised(network, head, info.preprocessing.crop, scales, what)
    if precision != "fp32":
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network


def _build(version: ModelVersion) -> nn.Module:
    try:
        return architectures.build(version.info.architecture, version.info.classes)
    except ModelInvalidError as error:
        where = version.folder / "model.json"
        raise ModelInvalidError(f"model {version.info.ref}: {where}: {error.detail}") from error


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
            is_int8s = name.startswith(int8.PREFIX)
            target = dtype if tensor.is_floating_point() and not is_int8s else tensor.dtype
            state[name] = tensor.to(device, target, copy=True)
    except (SafetensorError, OSError) as error:
        raise ModelInvalidError(f"model {info.ref}: cannot read {version.weights_path}: {error}") from error
    return state


def _check_int8(version: ModelVersion, devices: tuple[torch.device, ...]) -> None:
    ref = version.info.ref
    if version.info.precision != "int8":
        raise ModelError(
            f"model {ref} has no int8 form: make one with `alexq models quantize {ref} --images FOLDER` "
            "and serve that, or set ALEXQ_PRECISION to another precision"
        )
    if len(devices) > 1:
        raise DeviceError("precision int8 is for one device: set ALEXQ_DEVICE=cpu")
    int8.require_engine(devices[0])


def _split_scales(state: dict[str, Tensor], *, is_quantised: bool, what: str) -> dict[str, Tensor]:
    """Take the tensors that only int8 needs out of ``state``, and return them by their own names."""
    names = [name for name in state if name.startswith(int8.PREFIX)]
    if is_quantised and not names:
        raise ModelInvalidError(f"{what} has no {int8.PREFIX}* tensors, but model.json says precision int8")
    if names and not is_quantised:
        raise ModelInvalidError(f"{what} has {names[0]} and its like, but model.json says precision fp32")
    return {name.removeprefix(int8.PREFIX): state.pop(name) for name in names}


def _mapped_tensors(path: Path) -> Iterator[tuple[str, Tensor]]:
    """Yield each tensor of a file, in a mapping of its own, whose pages go when the next one is asked for."""
    with safe_open(path, "pt") as file:
        names = list(file.keys())
    for name in names:
        with safe_open(path, "pt") as file:
            yield name, file.get_tensor(name)
