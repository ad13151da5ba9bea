"""Answers that are more than the best five of one crop: computed from the logits, on the device.

A batch that holds such a job goes through the network once like any other, as the kernels come: graphs and
preallocated outputs are for batches without one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from alexq_schema.options import Options
    from alexq_worker.inference.forward import Forward

Answer = tuple[list[int], list[float]]
"""Classes, best first, and their probabilities."""


def score(forward: Forward, images: Tensor, wanted: Sequence[Options], limit: int) -> list[Answer]:
    """Return what is wanted of each image, in order.

    Args:
        images: uint8[E, side, side, 3] on the host: the entries of the first image, of the second, and so on.
        wanted: for each image how many entries it has, which are averaged, and what its answer is.
        limit: entries that go through the network together, at most.
    """
    device = forward.device
    logits = torch.cat(
        [forward.logits(part.to(device)) for part in torch.split(images, limit)]
    )  # float32[E, K]
    sizes = torch.tensor([one.entries for one in wanted], device=device)
    owner = torch.arange(len(wanted), device=device).repeat_interleave(sizes)  # int64[E]
    temperatures = torch.tensor([one.temperature for one in wanted], device=device)
    probabilities = (logits / temperatures[owner, None]).softmax(dim=1)
    means = probabilities.new_zeros(len(wanted), logits.shape[1]).index_add_(0, owner, probabilities)
    means /= sizes[:, None]  # float32[B, K]
    most = min(max(one.top_k for one in wanted), logits.shape[1])
    values, indices = (part.cpu().tolist() for part in means.topk(most, dim=1))
    return [(i[: one.top_k], v[: one.top_k]) for i, v, one in zip(indices, values, wanted, strict=True)]
