"""The resident model: batches of pixels in, the best labels of each out.

One thread at a time uses an engine: the one that loads and warms it up, then the one that calls it.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Self

import numpy as np
import torch

from alexq_schema.errors import (
    DeviceError,
    DeviceMemoryError,
    EngineError,
    ModelNotReadyError,
)
from alexq_schema.job import ModelRef
from alexq_schema.names import Precision, PrecisionChoice
from alexq_worker.inference.cuda import CudaRunner, pinned
from alexq_worker.inference.devices import (
    describe,
    drop_tensors,
    is_out_of_memory,
    memory,
    release,
    resolve_devices,
)
from alexq_worker.inference.forward import Forward
from alexq_worker.inference.launched import Launched
from alexq_worker.inference.memory import use_huge_pages
from alexq_worker.inference.precision import choose
from alexq_worker.inference.runner import DirectRunner, Runner
from alexq_worker.inference.scoring import Answer, score
from alexq_worker.inference.topk import TopK
from alexq_worker.inference.weights import load_network

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from alexq_schema.models import ModelVersion
    from alexq_schema.options import Options

log = logging.getLogger("alexq.inference")


class Engine:
    """One model version on one device."""

    labels: list[str]
    """In class-index order."""
    precision: Precision
    """As served."""
    model_ref: ModelRef
    """What results say about their model: the version, the precision as served, whether trained."""
    device_name: str
    """For people, such as ``cuda:0 (NVIDIA H200)`` or ``cpu``."""
    max_batch: int
    """Images that a batch of :meth:`new_batch` holds."""
    batch_limit: int
    """Images in one call of :meth:`classify`, at most: ``max_batch``, or what fits the device's memory."""
    forward: Forward
    """What the device computes."""
    runner: Runner
    """What gets batches onto the device and answers off it; for measurements: callers classify."""

    def __init__(self, forward: Forward, labels: list[str], model_ref: ModelRef, max_batch: int) -> None:
        """Serve ``forward``. :meth:`load` is the usual way in."""
        self.labels = labels
        self.model_ref = model_ref
        self.device_name = describe(forward.device)
        self.max_batch = self.batch_limit = max_batch
        self.forward = forward
        self.precision = forward.precision
        is_cuda = forward.device.type == "cuda"
        self.runner = CudaRunner(forward) if is_cuda else DirectRunner(forward)
        self._known: TopK | None = None  # what the image of `check` gave at the warm-up
        self._is_warm = False

    @classmethod
    def load(cls, version: ModelVersion, *, device: str, precision: PrecisionChoice, max_batch: int) -> Self:
        """Verify a model version's files and put its network on a device.

        Args:
            version: a folder of the models folder.
            device: ``auto``, ``cpu``, ``mps``, ``cuda`` or ``cuda:N``; ``cuda:N,cuda:M`` for the halves of
                ``alexnet-2012``.
            precision: ``fp32`` is the reference arithmetic; ``bf16`` halves the memory and is faster
                where the hardware has it, with probabilities that differ in the second decimal; ``fp16``
                does the same on CUDA devices, closer to ``fp32`` but with a smaller range; ``int8`` is for
                quantised versions on x86 CPUs; ``auto`` is what :func:`.precision.choose` says.
            max_batch: images in one call of :meth:`classify`, at most.

        Raises:
            ModelInvalidError: tampered or truncated files, or weights that do not fit the architecture.
            ModelError: ``int8`` of a version that was not quantised.
            DeviceError: the device is not there, or cannot do this precision or architecture.
        """
        devices = resolve_devices(device)
        target = devices[0]
        if precision == "auto":
            precision = choose(version.info, devices)
        if precision == "fp16" and target.type != "cuda":
            raise DeviceError(f"precision fp16 needs a CUDA device, not {target}: set ALEXQ_PRECISION=bf16")
        use_huge_pages()
        info = version.info
        labels = version.read_labels()
        network = load_network(version, devices, precision)
        model_ref = ModelRef(name=info.name, version=info.version, precision=precision, trained=info.trained)
        engine = cls(Forward(network, info, target, precision), labels, model_ref, max_batch)
        if len(devices) > 1:
            engine.device_name = ", ".join(map(describe, devices))
            if target.type == "cuda":  # a graph's capture is one device's
                engine.runner = CudaRunner(engine.forward, use_graphs=False)
        return engine

    @property
    def is_graphed(self) -> bool:
        """Return whether batches go to the device as CUDA graphs; false beside any other device."""
        return self.runner.is_graphed

    def device_memory(self) -> dict[str, int]:
        """Return bytes of the device's memory by kind; empty where it is the host's. For any thread."""
        return memory(self.forward.device)

    def new_batch(self) -> NDArray[np.uint8]:
        """Return an empty batch, uint8[max_batch, crop, crop, 3], in pinned memory beside a CUDA device."""
        shape = (self.max_batch, self.forward.side, self.forward.side, 3)
        is_cuda = self.forward.device.type == "cuda"
        pixels = pinned(shape, torch.uint8) if is_cuda else torch.zeros(shape, dtype=torch.uint8)
        batch: NDArray[np.uint8] = pixels.numpy()
        return batch

    def warm_up(self) -> None:
        """Run the smallest and the largest batch, check what comes out, and open :meth:`classify`.

        Where ``max_batch`` images do not fit the device's memory, half as many are tried, and so on.

        Raises:
            ModelInvalidError: the outputs have the wrong shape, are not finite or do not sum to 1.
            EngineError: the device failed, or has too little memory for one image.
        """
        self._prepare(self.max_batch)
        self._known = self.classify(self._noise(1))

    def lower_limit(self) -> None:
        """Halve ``batch_limit``, at least to what fits now, and give back what larger batches took.

        What was launched before is finished. For after a DeviceMemoryError.

        Raises:
            ModelNotReadyError: warm_up() has not succeeded.
            EngineError: the device failed, or has too little memory for one image.
        """
        self._require_warm()
        self._prepare(max(1, self.batch_limit // 2))

    def close(self) -> None:
        """Give the network's memory back, on the device or the host; nothing is classified any more.

        For whichever thread knows that no other uses this engine. May be called twice.
        """
        self._is_warm = False
        self.runner.close()
        self.forward.close()
        release(self.forward.device)

    def _prepare(self, limit: int) -> None:
        self._is_warm = False
        while True:
            try:
                with self._translated(limit):
                    for size in sorted({1, limit}):
                        self.forward.check(torch.from_numpy(self._noise(size)))
                    self.runner.prepare(limit)
                break
            except DeviceMemoryError as error:
                if limit == 1:
                    raise
                log.warning("%s; trying batches of %d", error, limit // 2)
            limit //= 2
        self.batch_limit = limit
        self._is_warm = True

    def _noise(self, size: int) -> NDArray[np.uint8]:
        shape = (size, self.forward.side, self.forward.side, 3)
        return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)

    def check(self) -> None:
        """Classify one image as ever, and check that it gives what it gave at the warm-up.

        Raises:
            ModelNotReadyError: warm_up() has not succeeded.
            EngineError: it does not: the device does not work any more.
        """
        top = self.classify(self._noise(1))
        assert self._known is not None
        difference = np.abs(top.probabilities - self._known.probabilities).max()
        if difference > self.forward.tolerance:
            raise EngineError(
                f"model {self._ref} on {self.device_name} gives probabilities that differ by "
                f"{difference:.2g} from those of its warm-up: the device or its memory is damaged"
            )

    def classify(self, images: NDArray[np.uint8]) -> TopK:
        """Return the best classes of every image, in input order.

        In fp32 a row does not depend on what else is in the batch by more than 1e-4.

        Args:
            images: uint8[B, crop, crop, 3] RGB on the host, 1 <= B <= batch_limit; writable, as
                :meth:`new_batch` and its slices are. It is free again when this returns.

        Raises:
            ModelNotReadyError: warm_up() has not succeeded.
            ValueError: another shape or dtype.
            DeviceMemoryError: a smaller batch may do; see :meth:`lower_limit`.
            EngineError: the device failed; nothing is known about any image of the batch.
        """
        return self.launch(images).result()

    def score(self, images: NDArray[np.uint8], wanted: Sequence[Options]) -> list[Answer]:
        """Return what is wanted of each image: more classes, several crops averaged, a temperature.

        Args:
            images: uint8[E, crop, crop, 3], any number, ``batch_limit`` of which go through together:
                the entries of the first image, of the second, and so on.

        Raises:
            ModelNotReadyError, DeviceMemoryError, EngineError: as :meth:`classify`.
        """
        self._require_warm()
        with self._translated(len(images)):
            answers = score(self.forward, torch.from_numpy(images), wanted, self.batch_limit)
        if not np.isfinite([value for _, values in answers for value in values]).all():
            raise EngineError(
                f"model {self._ref} on {self.device_name} gave probabilities that are not finite"
            )
        return answers

    def launch(self, images: NDArray[np.uint8]) -> Launched:
        """Begin to classify, as :meth:`classify` does, and return before it is done where the device can.

        On CUDA two batches may be on their way; launching a third waits for the first. Elsewhere all the
        work is done here. ``images`` must stay as it is until :meth:`Launched.wait_copied` or
        :meth:`Launched.result` has returned.

        Raises:
            ModelNotReadyError, ValueError, DeviceMemoryError, EngineError: as :meth:`classify`.
        """
        self._require_warm()
        side = self.forward.side
        size, *image_shape = images.shape
        if images.dtype != np.uint8 or image_shape != [side, side, 3]:
            raise ValueError(
                f"a batch is uint8[B, {side}, {side}, 3], not {images.dtype}{list(images.shape)}"
            )
        if not 1 <= size <= self.batch_limit:
            raise ValueError(f"a batch has 1 to {self.batch_limit} images, not {size}")
        with self._translated(size):
            return Launched(self, self.runner.launch(torch.from_numpy(images)), size)

    def _require_warm(self) -> None:
        if not self._is_warm:
            raise ModelNotReadyError(f"model {self._ref} has not been warmed up: call warm_up() first")

    @property
    def _ref(self) -> str:
        return f"{self.model_ref.name}/{self.model_ref.version}"

    @contextmanager
    def _translated(self, size: int) -> Iterator[None]:
        """Without gradients, the device's errors translated."""
        before = sys.exception()
        try:
            with torch.inference_mode():
                yield
        except RuntimeError as error:  # torch.OutOfMemoryError is one
            is_full = is_out_of_memory(error, before)
            if is_full:
                drop_tensors(error, before)
            advice = ": lower ALEXQ_MAX_BATCH" if is_full else ""
            lines = str(error).splitlines() or [type(error).__name__]
            raise (DeviceMemoryError if is_full else EngineError)(
                f"model {self._ref} failed on {self.device_name} with a batch of {size}: {lines[0]}{advice}"
            ) from error
