"""How a faster arithmetic compares with fp32, on the same images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from alexq_schema.model_info import Agreement, ClassAgreement

if TYPE_CHECKING:
    from torch import Tensor

_LEAST = 1e-12
"""A probability of 0 would make the divergence infinite."""


def agreement(reference: Tensor, other: Tensor, labels: Sequence[str]) -> Agreement:
    """Return how the probabilities ``other`` agree with ``reference``, both float32[N, classes], N >= 1."""
    first = reference.argmax(1)
    is_same = other.argmax(1) == first
    best = other.topk(min(5, other.shape[1]), 1).indices
    log_ratio = reference.clamp_min(_LEAST).log() - other.clamp_min(_LEAST).log()
    divergence = (reference * log_ratio).sum(1).mean()
    images = Counter(labels[index] for index in first.tolist())
    same = Counter(labels[index] for index in first[is_same].tolist())
    return Agreement(
        images=len(reference),
        top1=_share(is_same),
        top5=_share((best == first[:, None]).any(1)),
        kl=max(0.0, round(float(divergence), 6)),
        per_class={
            label: ClassAgreement(images=count, top1=round(same[label] / count, 6))
            for label, count in sorted(images.items())
        },
    )


def _share(is_so: Tensor) -> float:
    return round(float(is_so.to(torch.float64).mean()), 6)
