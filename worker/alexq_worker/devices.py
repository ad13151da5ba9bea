"""``python -m alexq_worker.devices``: this host's CUDA devices, one a line, as ``ALEXQ_DEVICE`` has them."""

from __future__ import annotations

import torch


def cuda_devices() -> list[str]:
    """Return ``cuda:0``, ``cuda:1``, …: those that torch sees."""
    return [f"cuda:{index}" for index in range(torch.cuda.device_count())]


if __name__ == "__main__":
    print("\n".join(cuda_devices()))  # noqa: T201 - its answer
