"""How batches get onto a device and their answers off it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from alexq_worker.inference.topk import TopK

if TYPE_CHECKING:
    from torch import Tensor

    from alexq_worker.inference.forward import Forward


class Pending(Protocol):
    """A batch that was launched."""

    def wait_copied(self) -> None:
        """Return when the host's pixels are no longer read."""

    def fetch(self) -> TopK:
        """Wait for the answer; may be called again.

        Raises:
            RuntimeError: the device failed.
        """


class Runner(Protocol):
    """Runs batches on one device, for one thread. Shapes and inference mode are its caller's business."""

    @property
    def is_graphed(self) -> bool:
        """Return whether a batch is one launch of a CUDA graph, not one of each kernel."""

    def prepare(self, limit: int) -> None:
        """Make ready for batches of up to ``limit`` images, and drop what was there for larger ones.

        Raises:
            RuntimeError: the device failed, or has too little memory.
        """

    def close(self) -> None:
        """Finish what is in flight, and give all memory back."""

    def launch(self, images: Tensor) -> Pending:
        """Begin with uint8[B, side, side, 3] on the host, B <= limit.

        Raises:
            RuntimeError: the device failed, or has too little memory.
        """


class DirectRunner:
    """Does all the work in ``launch``: for the CPU, and for devices without streams of their own."""

    is_graphed = False

    def __init__(self, forward: Forward) -> None:
        """Run ``forward``."""
        self._forward = forward

    def prepare(self, limit: int) -> None:
        """Keep nothing from batch to batch."""

    def close(self) -> None:
        """Hold nothing."""

    def launch(self, images: Tensor) -> Done:
        """Classify ``images``."""
        values, indices = self._forward.best(images.to(self._forward.device))
        return Done(TopK(indices.cpu().numpy(), values.cpu().numpy()))


class Done:
    """A batch whose answer is there."""

    def __init__(self, top: TopK) -> None:
        self._top = top

    def wait_copied(self) -> None:
        """Return: the pixels have been read."""

    def fetch(self) -> TopK:
        """Return the answer."""
        return self._top
