"""Several processes that train together, one a device, as ``torchrun`` starts them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Final, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from alexq_schema.errors import AlexqError, TrainingError
from alexq_worker.inference.devices import resolve_device

T = TypeVar("T")
_PATIENCE: Final = timedelta(hours=6)
"""While the first process looks at the data or computes features, the others wait."""


@dataclass(frozen=True)
class Group:
    """This process's place among those that train together."""

    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this is the process that reports and writes."""
        return self.rank == 0

    def wrap(self, network: nn.Module, device: torch.device) -> nn.Module:
        """Return ``network`` with gradients that are averaged over the processes."""
        if self.size == 1:
            return network
        return DistributedDataParallel(network, device_ids=[device] if device.type == "cuda" else None)

    def total(self, values: Tensor) -> Tensor:
        """Return the sum of the processes' tensors."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def from_first(self, make: Callable[[], T]) -> T:
        """Return what ``make`` returns in the first process, in every process.

        Raises:
            AlexqError: what it raised there; in the others, that the first one failed.
        """
        if self.size == 1:
            return make()
        box: list[T | str | None] = [None, None]
        failure: AlexqError | None = None
        if self.is_first:
            try:
                box[0] = make()
            except AlexqError as error:
                failure, box[1] = error, str(error)
        dist.broadcast_object_list(box)
        if failure is not None:
            raise failure
        if box[1] is not None:
            raise TrainingError(f"the first process ended: {box[1]}")
        return box[0]  # type: ignore[return-value]


@contextmanager
def joined(device: str) -> Iterator[tuple[Group, torch.device]]:
    """Join the processes that ``torchrun`` started beside this one, if any; yield group and device.

    Raises:
        DeviceError: this machine does not have the device.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield Group(), resolve_device(device)
        return
    chosen = resolve_device(device)
    if chosen.type == "cuda":
        chosen = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(chosen)
    dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo", timeout=_PATIENCE)
    try:
        yield Group(dist.get_rank(), dist.get_world_size()), chosen
    finally:
        dist.destroy_process_group()
