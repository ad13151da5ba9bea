"""Changes of a picture that do not change its label, each from a generator of its own.

The generator comes from seed, epoch and the picture's place in the set: neither threads nor an interruption
change what a picture becomes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_STRENGTH: Final = 0.1
"""Standard deviation of the share of each component that is added. Source: Krizhevsky 2012, section 4.1."""
_TRIES: Final = 10
SAMPLED_PICTURES: Final = 1000
"""Of the training set, to find its principal components."""

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class PcaColour:
    """The paper's colour augmentation: noise along the principal components of the set's pixels.

    Of each component its standard deviation is taken, as cuda-convnet and Torch's ImageNet training do: the
    eigenvalues themselves, which the paper's text names, are in squared grey levels and would saturate
    a picture.
    """

    components: NDArray[np.float64]
    """[3, 3]: a column is a component, scaled to its standard deviation in grey levels."""

    @classmethod
    def of(cls, pictures: Iterable[Pixels]) -> PcaColour:
        """Return the components of these pictures' pixels, one in sixteen."""
        pixels = np.concatenate([picture[::4, ::4].reshape(-1, 3) for picture in pictures])
        values, vectors = np.linalg.eigh(np.cov(pixels.astype(np.float64), rowvar=False))
        return cls(vectors * np.sqrt(np.maximum(values, 0)))

    def __call__(self, pixels: Pixels, chance: np.random.Generator) -> Pixels:
        """Return the picture with one random colour added to all of it."""
        added = self.components @ chance.normal(0, _STRENGTH, 3)
        return np.clip(pixels + added, 0, 255).astype(np.uint8)


@dataclass(frozen=True)
class Augmentation:
    """A random crop, a mirror image for one in two, and colour."""

    side: int
    """Pixels of the result."""
    smallest_crop: float
    """Share of the area; 1 crops ``side`` pixels at a random place, as the paper does."""
    colour: PcaColour | None

    def __call__(self, picture: Image.Image, chance: np.random.Generator) -> Pixels:
        """Return uint8[side, side, 3] of an RGB picture that is no smaller than ``side``."""
        if self.smallest_crop < 1:
            picture = picture.resize(
                (self.side, self.side), Image.Resampling.BILINEAR, box=self._box(picture.size, chance)
            )
        else:
            left, top = (int(chance.integers(0, length - self.side + 1)) for length in picture.size)
            picture = picture.crop((left, top, left + self.side, top + self.side))
        pixels = np.asarray(picture)
        if chance.random() < 0.5:
            pixels = pixels[:, ::-1]
        return self.colour(pixels, chance) if self.colour else pixels

    def _box(self, size: tuple[int, int], chance: np.random.Generator) -> tuple[int, int, int, int]:
        """Return a random part: area and aspect as torchvision's RandomResizedCrop draws them."""
        width, height = size
        for _ in range(_TRIES):
            area = width * height * chance.uniform(self.smallest_crop, 1)
            aspect = math.exp(chance.uniform(math.log(3 / 4), math.log(4 / 3)))
            across, down = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if 0 < across <= width and 0 < down <= height:
                left = int(chance.integers(0, width - across + 1))
                top = int(chance.integers(0, height - down + 1))
                return left, top, left + across, top + down
        return 0, 0, width, height
