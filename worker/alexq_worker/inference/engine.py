"""The resident model: batches of pixels in, the best labels of each out.

One thread owns an engine: the one that loads, warms up and calls it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Self

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from alexq_schema.errors import DeviceMemoryError, EngineError, ModelInvalidError, ModelNotReadyError
from alexq_schema.job import TOP_K, ModelRef
from alexq_worker.inference import architectures
from alexq_worker.inference.devices import describe, resolve_device

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from alexq_schema.models import ModelVersion, Preprocessing

Precision = Literal["fp32", "bf16"]


@dataclass(frozen=True)
class TopK:
    """The best classes of every image in a batch, best first. K = min(TOP_K, classes)."""

    indices: NDArray[np.int64]
    """int64[B, K]: positions in the model's label list."""
    probabilities: NDArray[np.float32]
    """float32[B, K] in [0, 1]: softmax over all classes, descending along K."""


class Engine:
    """One model version on one device."""

    labels: list[str]
    """In class-index order."""
    model_ref: ModelRef
    """What results say about their model: the version, the precision as served, whether trained."""
    device_name: str
    """For people, such as ``cuda:0 (NVIDIA H200)`` or ``cpu``."""
    max_batch: int

    def __init__(
        self,
        network: nn.Module,
        labels: list[str],
        model_ref: ModelRef,
        preprocessing: Preprocessing,
        device: torch.device,
        precision: Precision,
        max_batch: int,
    ) -> None:
        """Serve ``network``, which is on ``device`` already. :meth:`load` is the usual way in."""
        self.labels = labels
        self.model_ref = model_ref
        self.device_name = describe(device)
        self.max_batch = max_batch
        self._network = network
        self._device = device
        self._dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        self._side = preprocessing.crop
        self._mean = torch.tensor(preprocessing.mean, device=device).view(3, 1, 1)
        self._std = torch.tensor(preprocessing.std, device=device).view(3, 1, 1)
        self._is_warm = False

    @classmethod
    def load(cls, version: ModelVersion, *, device: str, precision: Precision, max_batch: int) -> Self:
        """Verify a model version's files and put its network on a device.

        Args:
            version: a folder of the models folder.
            device: ``auto``, ``cpu``, ``mps``, ``cuda`` or ``cuda:N``.
            precision: ``fp32`` is the reference arithmetic; ``bf16`` halves the memory and is faster
                where the hardware has it, with probabilities that differ in the second decimal.
            max_batch: images in one call of :meth:`classify`, at most.

        Raises:
            ModelInvalidError: tampered or truncated files, or weights that do not fit the architecture.
            DeviceError: the device is not there.
        """
        target = resolve_device(device)
        info = version.info
        labels = version.read_labels()
        version.verify_weights()
        try:
            state = safetensors.torch.load_file(version.weights_path)
        except (SafetensorError, OSError) as error:
            raise ModelInvalidError(
                f"model {info.ref}: cannot read {version.weights_path}: {error}"
            ) from error
        network = architectures.build(info.architecture, info.classes)
        architectures.check_fits(state, network, f"model {info.ref}: {version.weights_path.name}")
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        # Copies, because load_file maps the file: what was verified must not change under the engine.
        network.load_state_dict(
            {
                name: tensor.to(target, dtype if tensor.is_floating_point() else tensor.dtype, copy=True)
                for name, tensor in state.items()
            },
            assign=True,
        )
        if precision == "bf16":
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        model_ref = ModelRef(name=info.name, version=info.version, precision=precision, trained=info.trained)
        return cls(network, labels, model_ref, info.preprocessing, target, precision, max_batch)

    def new_batch(self) -> NDArray[np.uint8]:
        """Return an empty batch, uint8[max_batch, crop, crop, 3], in pinned memory beside a CUDA device."""
        pixels = torch.zeros(
            (self.max_batch, self._side, self._side, 3),
            dtype=torch.uint8,
            pin_memory=self._device.type == "cuda",
        )
        batch: NDArray[np.uint8] = pixels.numpy()
        return batch

    def warm_up(self) -> None:
        """Run the smallest and the largest batch, check what comes out, and open :meth:`classify`.

        Raises:
            ModelInvalidError: the outputs have the wrong shape, are not finite or do not sum to 1.
            EngineError: the device failed, or has too little memory for ``max_batch``.
        """
        self._try_out(sorted({1, self.max_batch}))
        self._is_warm = True

    def check(self) -> None:
        """Classify one image that is known to be good, and check what comes out.

        Raises:
            ModelInvalidError, EngineError: as :meth:`warm_up`: the device does not work any more.
        """
        self._try_out([1])

    def _try_out(self, sizes: Iterable[int]) -> None:
        noise = np.random.default_rng(0)
        for size in sizes:
            images = noise.integers(0, 256, (size, self._side, self._side, 3), dtype=np.uint8)
            with self._inference(size):
                rows = self._probabilities(torch.from_numpy(images)).cpu()
            if rows.shape != (size, len(self.labels)):
                raise ModelInvalidError(
                    f"model {self._ref}: {size} images gave outputs of shape {tuple(rows.shape)}, "
                    f"not {(size, len(self.labels))}"
                )
            if not (rows.isfinite().all() and torch.allclose(rows.sum(1), torch.ones(size), atol=1e-3)):
                raise ModelInvalidError(
                    f"model {self._ref}: its outputs are not probabilities (not finite, or rows that do not "
                    "sum to 1): the weights are unusable"
                )

    def classify(self, images: NDArray[np.uint8]) -> TopK:
        """Return the best classes of every image, in input order.

        In fp32 a row does not depend on what else is in the batch by more than 1e-4.

        Args:
            images: uint8[B, crop, crop, 3] RGB on the host, 1 <= B <= max_batch; writable, as
                :meth:`new_batch` and its slices are. It is free again when this returns.

        Raises:
            ModelNotReadyError: warm_up() has not succeeded.
            ValueError: another shape or dtype.
            EngineError: the device failed; nothing is known about any image of the batch.
        """
        if not self._is_warm:
            raise ModelNotReadyError(f"model {self._ref} has not been warmed up: call warm_up() first")
        size, *image_shape = images.shape
        if images.dtype != np.uint8 or image_shape != [self._side, self._side, 3]:
            raise ValueError(
                f"a batch is uint8[B, {self._side}, {self._side}, 3], not {images.dtype}{list(images.shape)}"
            )
        if not 1 <= size <= self.max_batch:
            raise ValueError(f"a batch has 1 to {self.max_batch} images, not {size}")
        with self._inference(size):
            probabilities = self._probabilities(torch.from_numpy(images))
            values, indices = probabilities.topk(min(TOP_K, len(self.labels)), dim=1)
            best = TopK(indices.cpu().numpy(), values.cpu().numpy())
        if not np.isfinite(best.probabilities).all():
            raise EngineError(
                f"model {self._ref} on {self.device_name} gave probabilities that are not finite"
            )
        return best

    @property
    def _ref(self) -> str:
        return f"{self.model_ref.name}/{self.model_ref.version}"

    def _probabilities(self, images: Tensor) -> Tensor:
        """From uint8[B, H, W, 3] on the host to float32[B, classes] on the device."""
        pixels = images.to(self._device, non_blocking=True).permute(0, 3, 1, 2)  # uint8[B, 3, H, W]
        # ToTensor, then Normalize, in fp32 as torchvision computes them.
        inputs = (pixels.to(torch.float32) / 255 - self._mean) / self._std
        if self._dtype == torch.float32:
            inputs = inputs.contiguous()  # NCHW, as the reference
        logits: Tensor = self._network(inputs.to(self._dtype))
        return logits.float().softmax(dim=1)

    @contextmanager
    def _inference(self, size: int) -> Iterator[None]:
        """Without gradients, in true fp32 (cuDNN would use TF32), errors of the device translated."""
        cudnn = torch.backends.cudnn
        try:
            with torch.inference_mode(), cudnn.flags(enabled=cudnn.enabled, allow_tf32=False):
                yield
        except RuntimeError as error:  # torch.cuda.OutOfMemoryError is one
            is_full = isinstance(error, torch.OutOfMemoryError)
            advice = ": lower ALEXQ_MAX_BATCH" if is_full else ""
            lines = str(error).splitlines() or [type(error).__name__]
            raise (DeviceMemoryError if is_full else EngineError)(
                f"model {self._ref} failed on {self.device_name} with a batch of {size}: {lines[0]}{advice}"
            ) from error
