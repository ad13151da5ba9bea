"""What is cut out of a resized picture, as torchvision's ``CenterCrop`` and ``TenCrop`` do."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Picture:
    """One image, decoded, resized and cropped."""

    image: Image.Image
    """Mode RGB, crop × crop pixels."""

    def write_to(self, out: NDArray[np.uint8]) -> None:
        """Copy the pixels into ``out``, uint8[crop, crop, 3] RGB: one slot of a batch."""
        out[...] = np.asarray(self.image)


@dataclass(frozen=True)
class TenCrops:
    """One image, decoded and resized: its corners and its centre, and their mirror images."""

    images: tuple[Image.Image, ...]

    def write_to(self, out: NDArray[np.uint8]) -> None:
        """Copy the pixels into ``out``, uint8[10, crop, crop, 3] RGB: ten slots of a batch."""
        for slot, image in zip(out, self.images, strict=True):
            slot[...] = np.asarray(image)


def centre(resized: Image.Image, side: int) -> Picture:
    """Return the centre."""
    return Picture(_centre(resized, side))


def ten(resized: Image.Image, side: int) -> TenCrops:
    """Return the corners and the centre, then those of the mirror image."""
    mirrored = resized.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return TenCrops((*_five(resized, side), *_five(mirrored, side)))


def _centre(resized: Image.Image, side: int) -> Image.Image:
    # round() takes halves to even, as torchvision's CenterCrop does.
    return _cut(resized, round((resized.width - side) / 2), round((resized.height - side) / 2), side)


def _five(resized: Image.Image, side: int) -> Iterator[Image.Image]:
    right, bottom = resized.width - side, resized.height - side
    for left, top in ((0, 0), (right, 0), (0, bottom), (right, bottom)):
        yield _cut(resized, left, top, side)
    yield _centre(resized, side)


def _cut(image: Image.Image, left: int, top: int, side: int) -> Image.Image:
    return image.crop((left, top, left + side, top + side))
