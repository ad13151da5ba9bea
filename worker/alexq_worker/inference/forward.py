"""The whole of what the device computes: normalisation, network, softmax, best classes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from alexq_schema.errors import ModelInvalidError
from alexq_schema.job import TOP_K
from alexq_schema.names import Precision
from alexq_worker.inference.normalise import Normalisation

if TYPE_CHECKING:
    from alexq_schema.model_info import ModelInfo

DTYPES: dict[Precision, torch.dtype] = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "int8": torch.float32,
}
"""What the network's input is in, by precision, and its weights, but for ``int8``."""
_TOLERANCES: dict[Precision, float] = {"fp32": 1e-4, "bf16": 0.03, "fp16": 0.01, "int8": 0.03}


class Forward:
    """One network with its preprocessing on one device, for one thread."""

    device: torch.device
    precision: Precision
    side: int
    """Pixels of an image's side."""
    top_k: int
    """Classes in an answer: min(TOP_K, classes)."""
    tolerance: float
    """How far the probabilities of one image may lie apart between two runs, in whatever batches."""

    def __init__(
        self, network: nn.Module, info: ModelInfo, device: torch.device, precision: Precision
    ) -> None:
        """Serve ``network``: float[B, 3, side, side] -> float[B, classes] logits, on ``device`` already."""
        self.device = device
        self.side = info.preprocessing.crop
        self.top_k = min(TOP_K, info.classes)
        self.precision = precision
        self.tolerance = _TOLERANCES[precision]
        self._info = info
        self._network = network
        self._normalise = Normalisation(
            info.preprocessing, device, DTYPES[precision], channels_last=precision != "fp32"
        )
        self._needs_true_fp32 = device.type == "cuda" and precision == "fp32"

    def close(self) -> None:
        """Let go of the network."""
        self._network = nn.Identity()

    def logits(self, images: Tensor) -> Tensor:
        """Return float32[B, classes] of uint8[B, side, side, 3] on the device."""
        with true_fp32() if self._needs_true_fp32 else nullcontext():
            logits: Tensor = self._network(self._normalise(images))
        return logits.float()

    def probabilities(self, images: Tensor) -> Tensor:
        """Return float32[B, classes] of uint8[B, side, side, 3] on the device; rows sum to 1."""
        return self.logits(images).softmax(dim=1)

    def best(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return float32[B, K] probabilities, descending, and int64[B, K] classes of images on the device."""
        values, indices = self.probabilities(images).topk(self.top_k, dim=1)
        return values, indices

    def check(self, images: Tensor) -> None:
        """Check that any ``images`` give probabilities.

        Raises:
            ModelInvalidError: they have the wrong shape, are not finite or do not sum to 1.
        """
        rows = self.probabilities(images.to(self.device)).cpu()
        expected = (len(images), self._info.classes)
        if rows.shape != expected:
            raise ModelInvalidError(
                f"model {self._info.ref}: {len(images)} images gave outputs of shape {tuple(rows.shape)}, "
                f"not {expected}"
            )
        if not (rows.isfinite().all() and torch.allclose(rows.sum(1), torch.ones(len(rows)), atol=1e-3)):
            raise ModelInvalidError(
                f"model {self._info.ref}: its outputs are not probabilities (not finite, or rows that do not "
                "sum to 1): the weights are unusable"
            )


@contextmanager
def true_fp32() -> Iterator[None]:
    """Keep CUDA's libraries from computing float32 in TF32, which has 10 bits of mantissa, in the context.

    cuDNN would by default, cuBLAS where the process or its environment says so. These settings are the
    whole process's; a graph keeps what held while it was captured.
    """
    cudnn = torch.backends.cudnn
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with cudnn.flags(enabled=cudnn.enabled, allow_tf32=False):
            yield
    finally:
        torch.set_float32_matmul_precision(before)
