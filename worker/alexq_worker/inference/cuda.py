"""CUDA: pinned memory, a stream for copies beside one for computing, a graph for each of a ladder of sizes.

    launch ─▶ copy stream: host → the slot's input ─ copied ─▶ compute stream: graph ─▶ host ─ done ─▶ fetch

Two slots, each with an input and outputs of its own, take turns: while one batch is computed the next is
copied. Kernels of a small batch take less time than launching them one by one; a graph launches all at
once. It has one size, so a batch takes the next larger one: the rows after its own hold what an earlier
batch left there, and nobody looks at what becomes of them.

Source of the capture's order (side stream, warm-up, capture, one pool, largest first):
https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs
"""

from __future__ import annotations

import logging
import sys
from bisect import bisect_left
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from alexq_worker.inference.devices import describe, is_out_of_memory
from alexq_worker.inference.forward import Forward
from alexq_worker.inference.topk import TopK

if TYPE_CHECKING:
    from torch.cuda import _POOL_HANDLE

SLOTS = 2
WARM_UPS = 3
"""Runs before a capture: libraries choose algorithms and make workspaces in the first ones."""

log = logging.getLogger("alexq.inference")


def ladder(limit: int) -> list[int]:
    """Return the batch sizes that have a graph: the powers of two below ``limit``, and ``limit``."""
    return [*(1 << step for step in range((limit - 1).bit_length())), limit]


def pinned(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Return zeros in host memory that the device copies from and to by itself, without the CPU."""
    return torch.zeros(shape, dtype=dtype, pin_memory=True)


class CudaRunner:
    """Two batches in flight; a third waits until the first has its answer."""

    def __init__(self, forward: Forward, *, use_graphs: bool = True) -> None:
        """Run ``forward``; without graphs every kernel is launched by itself."""
        self.compute = torch.cuda.Stream(forward.device)  # type: ignore[no-untyped-call]
        """Everything but the copies from the host runs on it, in order."""
        self.slots: list[Slot] = []
        self._copy = torch.cuda.Stream(forward.device)  # type: ignore[no-untyped-call]
        self._forward = forward
        self._use_graphs = use_graphs
        self._next = 0

    @property
    def is_graphed(self) -> bool:
        """Return whether a batch is the launch of a graph."""
        return any(slot.graphs for slot in self.slots)

    def prepare(self, limit: int) -> None:
        """Make slots and graphs for up to ``limit`` images; what is in flight is finished first.

        Where capturing fails, a warning is logged and batches go through kernel by kernel from then on.

        Raises:
            RuntimeError: the device failed, or has too little memory; nothing is held then.
        """
        with torch.cuda.device(self._forward.device):
            self._drop()
            try:
                with torch.cuda.stream(self.compute):
                    self.slots = [Slot(self._forward, limit) for _ in range(SLOTS)]
                    if self._use_graphs:
                        self._capture(limit)
                torch.cuda.synchronize()  # the copy stream does not wait for what the inputs began with
            except RuntimeError:
                self._drop()
                raise

    def close(self) -> None:
        """Finish what is in flight, and give the slots' and graphs' memory back."""
        with torch.cuda.device(self._forward.device):
            self._drop()

    def _drop(self) -> None:
        """Give all memory back: a pool is free only when the last graph that shares it is gone."""
        for batch in [slot.batch for slot in self.slots if slot.batch is not None]:
            batch.settle()  # or it keeps its slot
        torch.cuda.synchronize()
        self.slots = []
        torch.cuda.empty_cache()

    def _capture(self, limit: int) -> None:
        pool, before = torch.cuda.graph_pool_handle(), sys.exception()
        try:
            for size in reversed(ladder(limit)):  # the smaller ones find room in what the largest took
                for slot in self.slots:
                    slot.capture(size, self.compute, pool)
        except RuntimeError as error:
            if is_out_of_memory(error, before):
                raise
            log.warning(
                "no CUDA graphs on %s, batches go through kernel by kernel: %s",
                describe(self._forward.device),
                str(error).partition("\n")[0],
            )
            self._use_graphs = False
            # The other one may be left capturing.
            self.compute = torch.cuda.Stream(self._forward.device)  # type: ignore[no-untyped-call]
            for slot in self.slots:
                slot.graphs.clear()

    def launch(self, images: Tensor) -> InFlight:
        """Begin copying ``images``, uint8[B, side, side, 3], and have them classified after that.

        Copying goes on while this returns only from pinned memory.
        """
        slot = self.slots[self._next]
        self._next = (self._next + 1) % len(self.slots)
        if slot.batch is not None:
            slot.batch.settle()  # its input and outputs are about to be written
        size = len(images)
        with torch.cuda.device(self._forward.device):
            with torch.cuda.stream(self._copy):
                slot.images[:size].copy_(images, non_blocking=True)
                slot.copied.record()
            with torch.cuda.stream(self.compute):
                slot.copied.wait()
                slot.run(size)
                slot.host_values[:size].copy_(slot.values[:size], non_blocking=True)
                slot.host_indices[:size].copy_(slot.indices[:size], non_blocking=True)
                slot.done.record()
        slot.batch = InFlight(slot, images)
        return slot.batch


class Slot:
    """One batch's place: input and outputs on the device, a copy of the outputs on the host."""

    def __init__(self, forward: Forward, limit: int) -> None:
        """Allocate for ``limit`` images on the current stream."""
        device, best = forward.device, (limit, forward.top_k)
        self.images = torch.empty((limit, forward.side, forward.side, 3), dtype=torch.uint8, device=device)
        noise = torch.Generator(device).manual_seed(0)  # not the process's own: that stays untouched
        self.images.random_(0, 256, generator=noise)
        self.values = torch.empty(best, device=device)
        self.indices = torch.empty(best, dtype=torch.int64, device=device)
        self.host_values = pinned(best, torch.float32)
        self.host_indices = pinned(best, torch.int64)
        # Blocking: the thread that waits sleeps, and leaves its core to the decoders.
        self.copied = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
        self.done = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
        self.graphs: dict[int, torch.cuda.CUDAGraph] = {}
        self.batch: InFlight | None = None
        """The last one launched."""
        self._forward = forward

    def capture(self, size: int, stream: torch.cuda.Stream, pool: _POOL_HANDLE) -> None:
        """Make the graph for ``size`` images on ``stream``, the current one, and see that it does the same.

        Raises:
            RuntimeError: it cannot be captured, or gives other results than its kernels one by one.
        """
        for _ in range(WARM_UPS):
            self._enqueue(size)
        expected = self.values[:size].clone()
        graph = torch.cuda.CUDAGraph()
        # Only what this thread does is no business of a capture's; others may allocate meanwhile.
        with torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode="thread_local"):
            self._enqueue(size)
        self.values[:size].zero_()
        graph.replay()
        if not torch.allclose(self.values[:size], expected, rtol=0, atol=self._forward.tolerance):
            raise RuntimeError(f"the graph for {size} images gives other probabilities than its kernels")
        self.graphs[size] = graph

    def run(self, size: int) -> None:
        """Have the first ``size`` images classified on the current stream."""
        if not self.graphs:
            return self._enqueue(size)
        sizes = sorted(self.graphs)
        return self.graphs[sizes[bisect_left(sizes, size)]].replay()

    def _enqueue(self, size: int) -> None:
        # The outputs are allocated outside the graphs' pool, where another graph would overwrite them.
        values, indices = self._forward.best(self.images[:size])
        self.values[:size].copy_(values)
        self.indices[:size].copy_(indices)


class InFlight:
    """A batch in a slot, until its answer is there; then it lets go of the slot and its memory."""

    def __init__(self, slot: Slot, images: Tensor) -> None:
        self._slot: Slot | None = slot
        self._images: Tensor | None = images  # must live until it is copied
        self._size = len(images)
        self._outcome: TopK | RuntimeError | None = None

    def wait_copied(self) -> None:
        """Return when ``images`` have been copied to the device, long before they are classified.

        Raises:
            RuntimeError: the device failed.
        """
        if self._slot is not None:
            self._slot.copied.synchronize()

    def settle(self) -> None:
        """Wait for the answer, or the error in its place, and take it out of the slot."""
        if self._slot is None:
            return
        try:
            self._slot.done.synchronize()
            indices, values = self._slot.host_indices.numpy(), self._slot.host_values.numpy()
            self._outcome = TopK(indices[: self._size].copy(), values[: self._size].copy())
        except RuntimeError as error:
            self._outcome = error
        self._slot = self._images = None

    def fetch(self) -> TopK:
        """Return the answer.

        Raises:
            RuntimeError: the device failed, on this batch or before it.
        """
        self.settle()
        if isinstance(self._outcome, RuntimeError):
            raise self._outcome
        assert self._outcome is not None
        return self._outcome
