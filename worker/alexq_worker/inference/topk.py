"""What classification gives: the best classes of each image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True)
class TopK:
    """The best classes of every image in a batch, best first. K = min(TOP_K, classes)."""

    indices: NDArray[np.int64]
    """int64[B, K]: positions in the model's label list."""
    probabilities: NDArray[np.float32]
    """float32[B, K] in [0, 1]: softmax over all classes, descending along K."""
