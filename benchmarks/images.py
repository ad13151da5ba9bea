"""The photographs that benchmarks classify: crops of scikit-learn's two sample images."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images

SIZE = (500, 375)
"""Width and height of each, as ImageNet's typical photograph."""
QUALITY = 92
"""JPEG quality: about 56 kB each."""


def jpegs(count: int, seed: int = 0) -> list[bytes]:
    """Return ``count`` distinct JPEGs of 500×375 pixels, the same for the same seed."""
    rng = np.random.default_rng(seed)
    sources = [Image.fromarray(array) for array in load_sample_images().images]
    made: list[bytes] = []
    for number in range(count):
        source = sources[number % len(sources)]
        scale = rng.uniform(0.6, 1.0)
        width, height = round(SIZE[0] * scale), round(SIZE[1] * scale)
        left = int(rng.integers(0, source.width - width + 1))
        upper = int(rng.integers(0, source.height - height + 1))
        crop = source.resize(SIZE, Image.Resampling.BICUBIC, (left, upper, left + width, upper + height))
        buffer = io.BytesIO()
        crop.save(buffer, "JPEG", quality=QUALITY)
        made.append(buffer.getvalue())
    return made
