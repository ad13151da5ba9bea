"""8-bit integers on x86 CPUs: PyTorch's static quantisation, with a scale for each channel of a weight.

A quantised version keeps its fp32 weights; beside them it holds what calibration found: a scale and a zero
point for the input and for every layer's output, as plain tensors whose names begin with ``int8.``. The 8-bit
weights follow from the fp32 ones when the version is loaded.

``torch.ao.quantization`` is the library that works beside torch 2.13 alone. It says that it will leave
torch for the package torchao; its warnings are silenced here, and nowhere else is it imported.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from alexq_schema.errors import DeviceError, ModelInvalidError
from alexq_worker.inference.architectures import check_tensors

if TYPE_CHECKING:
    from torch.fx import GraphModule

PREFIX = "int8."
"""How the names of these tensors begin in a weights file."""

_ENGINE = "x86"
_OF_AN_ACTIVATION = re.compile(r"(?:^|[._])(scale|zero_point)(?:_\d+)?$")
_LARGEST = 255


def require_engine(device: torch.device) -> None:
    """Check that 8-bit arithmetic can be done on ``device``.

    Raises:
        DeviceError: it is not an x86 CPU.
    """
    if device.type != "cpu" or _ENGINE not in torch.backends.quantized.supported_engines:
        raise DeviceError(f"precision int8 needs an x86 CPU, not {device}: set ALEXQ_PRECISION=bf16 or fp32")


def calibrated(network: nn.Module, head: str, batches: Iterable[Tensor], what: str) -> dict[str, Tensor]:
    """Return the scales and zero points under which ``network`` sees ``batches`` best.

    Args:
        network: in fp32 on the CPU, in eval mode; it is not to be used afterwards.
        head: its last layer's name, which stays in fp32: logits of 7 bits tie where classes are close, and
            it is less than a hundredth of the work.
        batches: float32[B, 3, H, W], at least one.
        what: names the network in errors.

    Raises:
        ModelInvalidError: PyTorch cannot follow what this network does.
    """
    before = frozenset(network.state_dict())
    observed = None
    for batch in batches:
        if observed is None:
            observed = _observed(network, head, batch[:1], what)
        with torch.inference_mode():
            observed(batch)
    if observed is None:
        raise ValueError("nothing to calibrate on")
    return _activations(_converted(observed), before)


def quantised(network: nn.Module, head: str, side: int, scales: Mapping[str, Tensor], what: str) -> nn.Module:
    """Return the 8-bit form of ``network``: float32[B, 3, side, side] -> float32[B, classes] logits.

    Args:
        network: in fp32 on the CPU, in eval mode; it is not to be used afterwards.
        head: its last layer's name, which stays in fp32.
        side: pixels of an image's side.
        scales: as :func:`calibrated` gave them.
        what: names their file in errors.

    Raises:
        ModelInvalidError: ``scales`` are not those of this network, or not usable.
    """
    before = frozenset(network.state_dict())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that nothing has been observed
        module = _converted(_observed(network, head, torch.zeros(1, 3, side, side), what))
    expected = _activations(module, before)
    check_tensors(scales, expected, what)
    for name, tensor in scales.items():
        is_scale = tensor.is_floating_point()
        if not (0 < float(tensor) < float("inf") if is_scale else 0 <= int(tensor) <= _LARGEST):
            raise ModelInvalidError(f"{what} has an unusable int8 value in {PREFIX}{name}: {tensor.item()}")
    for layer_name, layer in _layers(module):
        layer.scale = float(scales[f"{layer_name}.scale"])
        layer.zero_point = int(scales[f"{layer_name}.zero_point"])
    for name, buffer in module.named_buffers():
        if name in scales:
            buffer.copy_(scales[name])
    return module


def _activations(module: nn.Module, before: frozenset[str]) -> dict[str, Tensor]:
    """Return the scales and zero points of a converted network, none of the original's own tensors.

    Not from its state dict: that unpacks every weight.
    """
    found = {
        name: buffer.detach().clone()
        for name, buffer in module.named_buffers()
        if name not in before and _OF_AN_ACTIVATION.search(name)
    }
    for name, layer in _layers(module):
        found[f"{name}.scale"] = torch.tensor(layer.scale, dtype=torch.float32)
        found[f"{name}.zero_point"] = torch.tensor(layer.zero_point, dtype=torch.int64)
    return found


def _layers(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """Yield the layers that hold their output's scale and zero point as numbers, with their names."""
    for name, layer in module.named_modules():
        if isinstance(getattr(layer, "scale", None), float) and hasattr(layer, "zero_point"):
            yield name, layer


def _observed(network: nn.Module, head: str, example: Tensor, what: str) -> GraphModule:
    with _quantisation():
        from torch.ao.quantization import get_default_qconfig_mapping
        from torch.ao.quantization.quantize_fx import prepare_fx

        try:
            # Values between layers use 7 bits: without VNNI the x86 kernels add pairs of products in 16 bits.
            mapping = get_default_qconfig_mapping(_ENGINE).set_module_name(head, None)
            return prepare_fx(network, mapping, (example,))
        except Exception as error:  # tracing may raise anything
            reason = str(error).partition("\n")[0]
            raise ModelInvalidError(f"{what} cannot be quantised: {reason}") from error


def _converted(observed: GraphModule) -> GraphModule:
    with _quantisation():
        from torch.ao.quantization.quantize_fx import convert_fx

        return convert_fx(observed)


@contextmanager
def _quantisation() -> Iterator[None]:
    """Choose the engine, and keep torch.ao from announcing its own end at every call."""
    torch.backends.quantized.engine = _ENGINE
    with warnings.catch_warnings():
        for category in (DeprecationWarning, UserWarning, FutureWarning):
            warnings.filterwarnings("ignore", category=category, module=r"torch\.|importlib|.*int8")
        warnings.filterwarnings("ignore", message=".*torch.ao.quantization is deprecated.*")
        yield
