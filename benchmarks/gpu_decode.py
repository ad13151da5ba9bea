"""Decoding alone: Pillow on the host's cores, and nvJPEG on the device.

The worker decodes with Pillow only. ``DeviceDecoder`` is here to be measured: how fast it is, and how far
its pixels, which differ from the reference's, move the answers.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from alexq_schema.model_info import Preprocessing
from alexq_schema.models import ModelVersion
from alexq_worker.inference.decode import Decoder
from alexq_worker.inference.engine import Engine
from alexq_worker.inference.topk import TopK
from alexq_worker.inference.torchvision_ops import import_torchvision
from benchmarks.gpu_answers import MAX_PIXELS, agreement, classified
from benchmarks.gpu_timing import medians, wall_s

DEVICE_BATCHES = (16, 64, 256)


class DeviceDecoder:
    """Decodes JPEGs in batches on a CUDA device; what it cannot decode, Pillow does."""

    def __init__(self, preprocessing: Preprocessing, device: torch.device) -> None:
        """Resize and crop on ``device`` as ``preprocessing`` says, in float32 and with antialiasing."""
        self._device = device
        self._preprocessing = preprocessing
        self._pillow = Decoder(preprocessing, MAX_PIXELS)
        self._torchvision = import_torchvision()
        self.last_refusal = ""
        """Why the device did not decode the last one of those that fell back."""

    def decode(self, files: Sequence[bytes]) -> tuple[Tensor, list[int]]:
        """Return uint8[B, crop, crop, 3] RGB on the device, and which files fell back to Pillow.

        Raises:
            ImageError: Pillow cannot decode one of those either.
        """
        crop = self._preprocessing.crop
        pixels = torch.empty((len(files), crop, crop, 3), dtype=torch.uint8, device=self._device)
        same_size: dict[torch.Size, list[int]] = defaultdict(list)
        pictures = self._decoded(files)
        for number, picture in enumerate(pictures):
            if picture is not None:
                same_size[picture.shape].append(number)
        for numbers in same_size.values():  # one resize for all of a size
            batch = torch.stack([picture for n in numbers if (picture := pictures[n]) is not None])
            pixels[numbers] = self._cropped(batch).permute(0, 2, 3, 1)
        fell_back = [number for number, picture in enumerate(pictures) if picture is None]
        for number in fell_back:
            host = np.empty((crop, crop, 3), np.uint8)
            self._pillow.decode(files[number]).write_to(host)
            pixels[number].copy_(torch.from_numpy(host))
        return pixels, fell_back

    def _decoded(self, files: Sequence[bytes]) -> list[Tensor | None]:
        """Return uint8[3, H, W] of each file, None where the device refuses it."""
        try:
            return list(self._decode_on_device(files))
        except RuntimeError as error:  # of one of them: there is no answer about the others
            if len(files) > 1:
                return [picture for data in files for picture in self._decoded([data])]
            self.last_refusal = str(error).partition("\n")[0]
            return [None]

    def _decode_on_device(self, files: Sequence[bytes]) -> list[Tensor]:
        tensors = [torch.frombuffer(bytearray(data), dtype=torch.uint8) for data in files]
        mode = self._torchvision.io.ImageReadMode.RGB
        found: list[Tensor] = self._torchvision.io.decode_jpeg(tensors, mode, device=self._device)
        return found

    def _cropped(self, batch: Tensor) -> Tensor:
        """From uint8[B, 3, H, W] to uint8[B, 3, crop, crop]."""
        functional = self._torchvision.transforms.functional
        resized = functional.resize(
            batch,
            [self._preprocessing.resize],
            interpolation=functional.InterpolationMode.BILINEAR,
            antialias=True,
        )
        cropped: Tensor = functional.center_crop(resized, [self._preprocessing.crop])
        return cropped


def decoding(
    version: ModelVersion, device: str, files: Sequence[bytes], expected: TopK, cores: int, rounds: int
) -> dict[str, Any]:
    """Return images/s of Pillow on 1 to ``cores`` threads and of the device, and how the latter's agree.

    Args:
        files: distinct JPEGs.
        expected: the reference's answers to them.
    """
    decoder = Decoder(version.info.preprocessing, MAX_PIXELS)
    on_device = DeviceDecoder(version.info.preprocessing, torch.device(device))
    threads = sorted({*(2**step for step in range(cores.bit_length())), cores})
    measures: dict[str, Callable[[], float]] = {
        f"pillow, {count} threads": partial(_pillow_rate, decoder, files, count)
        for count in threads
        if count <= cores
    }
    compared, fell_back = _compare(version, device, on_device, files, expected)
    if fell_back < len(files):
        for size in DEVICE_BATCHES:
            measures[f"device, batches of {size}"] = partial(_device_rate, on_device, files, size)
    rates = medians(measures, rounds)
    return {
        "images_per_s": {name: round(rate) for name, rate in rates.items()},
        "device": {
            "fell_back_to_pillow": fell_back,
            "of": len(files),
            "last_refusal": on_device.last_refusal,
            "agreement_in_fp32": compared,
        },
    }


def _pillow_rate(decoder: Decoder, files: Sequence[bytes], threads: int) -> float:
    images = list(files) * -(-threads // 4)  # half a second or more, whatever the threads
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(decoder.decode, files[: 2 * threads]))
        return len(images) / wall_s(lambda: list(pool.map(decoder.decode, images)))


def _device_rate(decoder: DeviceDecoder, files: Sequence[bytes], size: int) -> float:
    images = list(files) * 4

    def run() -> None:
        for start in range(0, len(images), size):
            decoder.decode(images[start : start + size])

    return len(images) / wall_s(run)


def _compare(
    version: ModelVersion, device: str, decoder: DeviceDecoder, files: Sequence[bytes], expected: TopK
) -> tuple[dict[str, Any], int]:
    engine = Engine.load(version, device=device, precision="fp32", max_batch=DEVICE_BATCHES[1])
    engine.warm_up()
    pixels, fell_back = decoder.decode(files)
    return agreement(classified(engine, pixels.cpu().numpy()), expected).to_json(), len(fell_back)
