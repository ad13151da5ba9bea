"""Which device the model runs on."""

from __future__ import annotations

import traceback
from collections.abc import Iterator

import torch

from alexq_schema.errors import DeviceError


def resolve_device(name: str) -> torch.device:
    """Return the device that ``name`` means here.

    Args:
        name: ``auto`` (CUDA, else MPS, else CPU), ``cpu``, ``mps``, ``cuda`` or ``cuda:N``.

    Raises:
        DeviceError: this machine does not have it; says what was found.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise DeviceError(f"device {name!r} is not auto, cpu, mps, cuda or cuda:N") from error
    if device.type == "cuda":
        device = torch.device("cuda", device.index or 0)
        found = (device.index or 0) < torch.cuda.device_count()
    else:
        found = device.type == "cpu" or (device.type == "mps" and torch.backends.mps.is_available())
    if not found:
        raise DeviceError(
            f"device {name!r} is not there (found: {', '.join(_found())}); set ALEXQ_DEVICE to one of these"
        )
    return device


def resolve_devices(name: str) -> tuple[torch.device, ...]:
    """Return the one device, or the two of ``cuda:N,cuda:M``, that ``name`` means here.

    Raises:
        DeviceError: as :func:`resolve_device`.
    """
    return tuple(resolve_device(part) for part in name.split(","))


def describe(device: torch.device) -> str:
    """Return the device's name for people, such as ``cuda:0 (NVIDIA H200)``."""
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return str(device)


def memory(device: torch.device) -> dict[str, int]:
    """Return bytes of the device's memory by kind; empty for a device that has none of its own.

    ``total`` and ``free`` are the device's, ``reserved`` and ``allocated`` this process's part.
    """
    if device.type != "cuda":
        return {}
    free, total = torch.cuda.mem_get_info(device)
    return {
        "total": total,
        "free": free,
        "reserved": torch.cuda.memory_reserved(device),
        "allocated": torch.cuda.memory_allocated(device),
    }


def release(device: torch.device) -> None:
    """Return to the device, and to other processes, what PyTorch keeps of its memory for later."""
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()


_NO_MEMORY = ("out of memory", "ALLOC_FAILED", "can't allocate memory")
"""CUDA's and PyTorch's allocators; cuBLAS and cuDNN; the host's."""


def is_out_of_memory(error: BaseException, before: BaseException | None) -> bool:
    """Return whether ``error``, or one that it came from, says that memory ran out.

    A graph's capture that runs out of memory ends with an error of its own, raised over the first.

    Args:
        before: ``sys.exception()`` from when the work began: what it says was another piece of work's.
    """
    return any(text in str(cause) for cause in _causes(error, before) for text in _NO_MEMORY)


def drop_tensors(error: BaseException, before: BaseException | None) -> None:
    """Let go of the tensors that the frames of ``error``, and of those that it came from, still hold."""
    for cause in _causes(error, before):
        traceback.clear_frames(cause.__traceback__)


def _causes(error: BaseException | None, before: BaseException | None) -> Iterator[BaseException]:
    while error is not None and error is not before:
        yield error
        error = error.__cause__ or error.__context__


def _found() -> list[str]:
    cuda = [describe(torch.device("cuda", index)) for index in range(torch.cuda.device_count())]
    return cuda + (["mps"] if torch.backends.mps.is_available() else []) + ["cpu"]
