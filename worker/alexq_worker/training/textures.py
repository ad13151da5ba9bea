"""Generated textures of eight kinds: a labelled set that needs no network, for the demo and for tests.

Scale, direction, colours, contrast and grain vary from picture to picture, so that a label is told by the
pattern and not by a colour or a size.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Plane = NDArray[np.float64]
SIDE: Final = 256
_JPEG_QUALITY: Final = 92
_GRAIN: Final = 4.0
"""Standard deviation of a pixel's noise, of 255."""


def _grating(u: Plane, v: Plane, step: float, chance: np.random.Generator) -> Plane:
    return np.asarray(np.sin(2 * np.pi * u / step))


def _checkers(u: Plane, v: Plane, step: float, chance: np.random.Generator) -> Plane:
    return np.asarray(np.sign(np.sin(2 * np.pi * u / step) * np.sin(2 * np.pi * v / step)))


def _dots(u: Plane, v: Plane, step: float, chance: np.random.Generator) -> Plane:
    row = np.floor(v / step)
    away = np.hypot((u + row % 2 * step / 2) % step - step / 2, v % step - step / 2)
    return np.clip(0.3 * step - away, -1, 1)


def _rings(u: Plane, v: Plane, step: float, chance: np.random.Generator) -> Plane:
    return np.asarray(np.sin(2 * np.pi * np.hypot(u - u.mean(), v - v.mean()) / step))


def _bricks(u: Plane, v: Plane, step: float, chance: np.random.Generator) -> Plane:
    height = step / 2
    row = np.floor(v / height)
    along, across = (u + row % 2 * step / 2) % step, v % height
    joint = np.minimum(np.minimum(along, step - along), np.minimum(across, height - across))
    return np.clip(joint - 0.07 * step, -1, 1)


def _zigzag(u: Plane, v: Plane, step: float, chance: np.random.Generator) -> Plane:
    fold = np.abs(u % (2 * step) - step)
    return np.asarray(np.sign(np.sin(2 * np.pi * (v + fold) / step)))


def _fine_noise(u: Plane, v: Plane, step: float, chance: np.random.Generator) -> Plane:
    return _noise(u.shape, 1.5 + step / 40, chance)


def _clouds(u: Plane, v: Plane, step: float, chance: np.random.Generator) -> Plane:
    return _noise(u.shape, 6 + step / 4, chance)


def _noise(shape: tuple[int, ...], blur: float, chance: np.random.Generator) -> Plane:
    """Return white noise through a Gaussian of ``blur`` pixels, with a standard deviation of 0.7."""
    height, width = shape
    waves = np.hypot(*np.meshgrid(np.fft.fftfreq(height), np.fft.rfftfreq(width), indexing="ij"))
    spectrum = np.fft.rfft2(chance.normal(size=shape)) * np.exp(-2 * (np.pi * blur * waves) ** 2)
    plane = np.fft.irfft2(spectrum, shape)
    return np.asarray(np.clip(plane / plane.std() * 0.7, -1, 1))


_PATTERNS: Final[dict[str, Callable[[Plane, Plane, float, np.random.Generator], Plane]]] = {
    "bricks": _bricks,
    "checkers": _checkers,
    "clouds": _clouds,
    "dots": _dots,
    "fine noise": _fine_noise,
    "grating": _grating,
    "rings": _rings,
    "zigzag": _zigzag,
}
LABELS: Final = tuple(_PATTERNS)


def draw(label: str, seed: int, side: int = SIDE) -> Image.Image:
    """Return a picture of this kind, ``side`` pixels square; the same seed gives the same one."""
    chance = np.random.default_rng([LABELS.index(label), seed])
    y, x = np.mgrid[0:side, 0:side].astype(float)
    angle = chance.uniform(-0.4, 0.4)
    u, v = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    step = chance.uniform(18, 40)
    pattern = _PATTERNS[label](u + chance.uniform(0, step), v + chance.uniform(0, step), step, chance)
    low, high = _colours(chance)
    picture = low + (high - low) * (pattern[..., None] + 1) / 2
    picture += chance.normal(0, _GRAIN, picture.shape)
    return Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8))


def _colours(chance: np.random.Generator) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return two colours far enough apart to be told from each other, in either order."""
    while True:
        low, high = chance.uniform(0, 255, (2, 3))
        if abs(low.mean() - high.mean()) > 90:
            return low, high


def write_set(folder: Path, each: int, first_seed: int = 0) -> list[tuple[Path, str]]:
    """Write ``each`` pictures of every kind as ``folder/<label>/<seed>.jpg``; return paths and labels."""
    written: list[tuple[Path, str]] = []
    for label in LABELS:
        (folder / label).mkdir(parents=True, exist_ok=True)
        for seed in range(first_seed, first_seed + each):
            path = folder / label / f"{seed}.jpg"
            draw(label, seed).save(path, quality=_JPEG_QUALITY)
            written.append((path, label))
    return written
