"""How good a network is on what was held out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from alexq_schema.training import HeldOut
from alexq_worker.training.distributed import Group
from alexq_worker.training.sources import Batch


def measure(network: nn.Module, batches: Iterable[Batch], labels: Sequence[str], group: Group) -> HeldOut:
    """Return loss and accuracy of ``network`` as it is served; it is left in training mode.

    Args:
        batches: this process's share of the pictures; the result is of all processes'.
    """
    classes = len(labels)
    loss, top5 = 0.0, 0
    right, of = torch.zeros(classes), torch.zeros(classes)
    device = torch.device("cpu")
    network.eval()
    with torch.inference_mode():
        for inputs, targets in batches:
            device = inputs.device
            logits = network(inputs).float()
            loss += float(functional.cross_entropy(logits, targets, reduction="sum"))
            best = logits.topk(min(5, classes)).indices
            top5 += int((best == targets[:, None]).sum())
            of += torch.bincount(targets.cpu(), minlength=classes)
            right += torch.bincount(targets[best[:, 0] == targets].cpu(), minlength=classes)
    network.train()
    sums = group.total(torch.cat([torch.tensor([loss, top5]), right, of]).to(device)).cpu()
    right, of = sums[2:].chunk(2)
    images = int(of.sum())
    return HeldOut(
        images=images,
        loss=float(sums[0]) / images,
        top1=float(right.sum()) / images,
        top5=float(sums[1]) / images,
        per_class={label: float(right[n] / of[n]) for n, label in enumerate(labels) if of[n]},
    )


def shared_out(inputs: Tensor, targets: Tensor, batch: int, group: Group) -> Callable[[], Iterator[Batch]]:
    """Return a function that yields this process's share of both, in pieces of ``batch``."""
    mine = slice(group.rank, None, group.size)
    own_inputs, own_targets = inputs[mine], targets[mine]
    starts = range(0, len(own_targets), batch)
    return lambda: ((own_inputs[n : n + batch], own_targets[n : n + batch]) for n in starts)
