"""The photographs of the GPU benchmarks, and generated pictures where scikit-learn's cannot be had."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

SIZE = (500, 375)
"""As ``benchmarks.images``."""


def photographs(count: int) -> tuple[list[bytes], str]:
    """Return ``count`` distinct JPEGs of 500×375 pixels, and what is on them."""
    try:
        from benchmarks.images import jpegs
    except ModuleNotFoundError as error:
        return _generated(count), f"generated pictures, since {error.name} is not installed"
    return jpegs(count), "crops of two photographs"


def _generated(count: int) -> list[bytes]:
    """Soft shapes under grain: JPEGs of a photograph's size in bytes."""
    random = np.random.default_rng(0)
    made: list[bytes] = []
    for _ in range(count):
        shapes = random.integers(0, 256, (9, 12, 3), dtype=np.uint8)
        picture = np.asarray(Image.fromarray(shapes).resize(SIZE, Image.Resampling.BICUBIC), np.float32)
        picture = picture + random.normal(0, 8, (SIZE[1], SIZE[0], 1)).astype(np.float32)
        buffer = io.BytesIO()
        Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=92)
        made.append(buffer.getvalue())
    return made
