"""Make an int8 version of an fp32 one: calibrate on some of the user's images, compare on the others."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from alexq_schema.errors import AlexqError, ModelInvalidError, ModelNotFoundError, UsageError
from alexq_schema.model_info import Agreement, Quantisation
from alexq_schema.models import ModelStore, ModelVersion
from alexq_worker.inference import architectures, int8, versions
from alexq_worker.inference.agreement import agreement
from alexq_worker.inference.decode import Decoder
from alexq_worker.inference.forward import Forward
from alexq_worker.inference.normalise import Normalisation
from alexq_worker.inference.weights import load_network, read_state

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor, nn

MIN_IMAGES = 64
MAX_IMAGES = 2_000
"""More are left out: they would find no other scales, and take 150 kB of memory each."""

_MAX_CALIBRATION = 256
_BATCH = 32
_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif"})
_CPU = torch.device("cpu")


@dataclass(frozen=True)
class Pictures:
    """The user's images, decoded; uint8[N, side, side, 3] each."""

    calibration: NDArray[np.uint8]
    held_out: NDArray[np.uint8]


def quantize(
    store: ModelStore, ref: str, folder: Path, as_ref: str, *, max_pixels: int, say: Callable[[str], None]
) -> ModelVersion:
    """Add ``as_ref``: ``ref`` with scales for int8, and the measured agreement of int8 and bf16 with fp32.

    Args:
        store: the models folder.
        ref: an fp32 version.
        folder: images like those that will be classified, at any depth; a quarter calibrates, at most 256,
            the others are only compared on.
        as_ref: a free ``name/version``.
        max_pixels: an image's, at most.
        say: tells people how it goes.

    Raises:
        UsageError: ``ref`` is int8 already, or ``as_ref`` is taken; too few images; unreadable ones, by name.
        ModelError: ``ref`` is not there or damaged, or its network cannot be quantised.
        DeviceError: this machine is not an x86 CPU.
    """
    version = store.find(ref)
    _check_names(store, version, as_ref)
    int8.require_engine(_CPU)
    state = read_state(version, _CPU, torch.float32)
    info, what = version.info, f"model {ref}: {version.weights_path}"
    reference = load_network(version, (_CPU,), "fp32")
    pictures = read_pictures(folder, Decoder(info.preprocessing, max_pixels), info.preprocessing.crop)
    started = time.monotonic()
    say(f"calibrating {ref} on {len(pictures.calibration)} images")
    normalise = Normalisation(info.preprocessing, _CPU, torch.float32)
    batches = (normalise(batch) for batch in _batches(pictures.calibration))
    head = architectures.find_architecture(info.architecture).head
    scales = int8.calibrated(_network(version, state), head, batches, what)
    say(f"quantised in {time.monotonic() - started:.1f} s; comparing on {len(pictures.held_out)} others")
    served: dict[str, nn.Module] = {
        "int8": int8.quantised(_network(version, state), head, info.preprocessing.crop, scales, what),
        "bf16": load_network(version, (_CPU,), "bf16"),
    }
    expected = _probabilities(Forward(reference, info, _CPU, "fp32"), pictures.held_out)
    found: dict[str, Agreement] = {}
    for precision in ("int8", "bf16"):
        forward = Forward(served[precision], info, _CPU, precision)
        found[precision] = agreement(
            expected, _probabilities(forward, pictures.held_out), version.read_labels()
        )
        say(
            f"{precision} against fp32: top-1 {found[precision].top1:.4f}, "
            f"top-5 {found[precision].top5:.4f}, KL {found[precision].kl:.5f}"
        )
    made = Quantisation(
        of=ref,
        of_sha256=info.weights_sha256,
        calibration_images=len(pictures.calibration),
        torch=str(torch.__version__),
    )
    return versions.add_quantised(store, as_ref, version, state, scales, agreement=found, quantisation=made)


def read_pictures(folder: Path, decoder: Decoder, side: int) -> Pictures:
    """Return the distinct images below ``folder``, in the order of their hashes, so that any part is a mix.

    Raises:
        UsageError: no folder, too few images, or unreadable ones, by name.
    """
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in _SUFFIXES and path.is_file())
    by_hash = {hashlib.sha256(path.read_bytes()).hexdigest(): path for path in reversed(paths)}
    chosen = [by_hash[digest] for digest in sorted(by_hash)][:MAX_IMAGES]
    if len(chosen) < MIN_IMAGES:
        raise UsageError(
            f"{folder} has {len(chosen)} distinct images (JPEG, PNG, WebP, GIF), at least {MIN_IMAGES} are "
            "needed: name a folder of images like those that will be classified"
        )
    pixels = np.empty((len(chosen), side, side, 3), np.uint8)
    unreadable = []
    for path, out in zip(chosen, pixels, strict=True):
        try:
            decoder.decode(path.read_bytes()).write_to(out)
        except AlexqError as error:
            unreadable.append(f"{path}: {error.detail}")
    if unreadable:
        rest = f"; and {len(unreadable) - 4} more" if len(unreadable) > 4 else ""
        raise UsageError(
            f"{len(unreadable)} images cannot be read: {'; '.join(sorted(unreadable)[:4])}{rest}: "
            "mend or remove them"
        )
    calibration = min(_MAX_CALIBRATION, len(pixels) // 4)
    return Pictures(pixels[:calibration], pixels[calibration:])


def _check_names(store: ModelStore, version: ModelVersion, as_ref: str) -> None:
    quantisation = version.info.quantisation
    if version.info.precision == "int8":
        of = quantisation.of if quantisation else "the fp32 version that it was made of"
        raise UsageError(
            f"model {version.info.ref} is quantised already: quantise {of}, under another name (--as)"
        )
    try:
        store.find(as_ref)
    except ModelNotFoundError:
        store.folder(as_ref)  # refuse a malformed name before the work
    except ModelInvalidError:
        pass  # damaged: it will be replaced
    else:
        raise UsageError(
            f"model {as_ref} is already there; versions never change: name another one with --as"
        )


def _network(version: ModelVersion, state: dict[str, Tensor]) -> nn.Module:
    network = architectures.build(version.info.architecture, version.info.classes)
    network.load_state_dict(state, assign=True)
    return network


def _batches(pixels: NDArray[np.uint8]) -> tuple[Tensor, ...]:
    return torch.split(torch.from_numpy(pixels), _BATCH)


def _probabilities(forward: Forward, pixels: NDArray[np.uint8]) -> Tensor:
    with torch.inference_mode():
        return torch.cat([forward.probabilities(batch) for batch in _batches(pixels)])
