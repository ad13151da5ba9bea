"""From the pixels of a batch to the network's input: ToTensor and Normalize, without needless passes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from alexq_schema.model_info import Preprocessing

_SERIAL_VALUES = 2**15 - 1
"""PyTorch shares out operations on more values among threads. Waiting for one another hundreds of times a
batch, while decoders want the same cores, costs more than the whole normalisation (measured)."""


class Normalisation:
    """``(pixel / 255 - mean) / std`` on one device, for one thread.

    On the host, and everywhere in float32, each value is computed as torchvision computes it, in float32
    and in that order, whatever the layout: the results are bit for bit the same. bfloat16 and float16 on
    CUDA take one multiply-add instead, in float32 as well; the result may differ in its last bit.
    """

    def __init__(
        self,
        preprocessing: Preprocessing,
        device: torch.device,
        dtype: torch.dtype,
        *,
        channels_last: bool | None = None,
    ) -> None:
        """Prepare for images of ``preprocessing.crop`` pixels a side, on ``device``, into ``dtype``.

        The layout is contiguous for float32, which is the reference's, and channels_last for others, for
        which the hardware's kernels are, unless ``channels_last`` says otherwise.
        """
        self._channels_last = dtype != torch.float32 if channels_last is None else channels_last
        self._dtype = dtype
        self._side = preprocessing.crop
        self._rows = max(1, _SERIAL_VALUES // (3 * preprocessing.crop))
        self._on_host = device.type == "cpu"
        self._folds = device.type == "cuda" and dtype != torch.float32
        self._mean = torch.tensor(preprocessing.mean, device=device).view(3, 1, 1)
        self._std = torch.tensor(preprocessing.std, device=device).view(3, 1, 1)
        mean, std = (
            torch.tensor(row, dtype=torch.float64) for row in (preprocessing.mean, preprocessing.std)
        )
        self._scale = (1 / (255 * std)).to(device, torch.float32).view(3, 1, 1)
        self._shift = (-mean / std).to(device, torch.float32).view(3, 1, 1)

    def __call__(self, images: Tensor) -> Tensor:
        """Return dtype[B, 3, side, side] of uint8[B, side, side, 3] RGB on the same device."""
        if self._on_host:
            return self._lines(images) if self._channels_last else self._planes(images)
        pixels = images.permute(0, 3, 1, 2)  # [B, 3, side, side], channels_last as it lies
        return self._folded(pixels) if self._folds else self._plain(pixels)

    # On the host a block of rows at a time: its 130 kB of float32 stay in the core's cache from one operation
    # to the next. A whole batch at once goes through memory five times, into pages that are new each time:
    # a fifth of the CPU time of the network itself.

    def _planes(self, images: Tensor) -> Tensor:
        inputs = torch.empty((len(images), 3, self._side, self._side))
        for image, planes in zip(images.permute(0, 3, 1, 2), inputs, strict=True):
            for block, out in zip(image.split(self._rows, 1), planes.split(self._rows, 1), strict=True):
                out.copy_(block.contiguous()).div_(255).sub_(self._mean).div_(self._std)
        return inputs

    def _lines(self, images: Tensor) -> Tensor:
        # A row's pixels and channels as one dimension: the innermost loop is long enough for vectors.
        mean, std = (row.view(3).repeat(self._side) for row in (self._mean, self._std))
        inputs = torch.empty((len(images) * self._side, self._side * 3), dtype=self._dtype)
        values = torch.empty((self._rows, self._side * 3))
        lines = images.reshape(inputs.shape)
        blocks = zip(torch.split(lines, self._rows), torch.split(inputs, self._rows), strict=True)
        for block, out in blocks:
            out.copy_(values[: len(block)].copy_(block).div_(255).sub_(mean).div_(std))
        return inputs.view(-1, self._side, self._side, 3).permute(0, 3, 1, 2)

    def _plain(self, pixels: Tensor) -> Tensor:
        inputs = (pixels.to(torch.float32) / 255 - self._mean) / self._std
        return inputs.to(self._dtype) if self._channels_last else inputs.contiguous()

    def _folded(self, pixels: Tensor) -> Tensor:
        # One kernel that reads bytes and writes halves: the device's memory is passed once, not five times.
        inputs = torch.empty_like(pixels, dtype=self._dtype)
        return torch.addcmul(self._shift, pixels, self._scale, out=inputs)
