"""What torch sees on this machine, asked of a process of its own: torch never enters this one."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

TORCH_TIMEOUT_S: Final = 120.0
"""Importing torch from a cold disk, on a machine that has other work."""
_TORCH_PROBE: Final = """
import json
from alexq_worker.inference.torchvision_ops import import_torchvision
import_torchvision()
import torch, torchvision
print(json.dumps({
    "torch": torch.__version__,
    "torchvision": torchvision.__version__,
    "cuda": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
    "mps": torch.backends.mps.is_available(),
}))
"""


@dataclass(frozen=True)
class TorchFacts:
    """What a process that imports torch and torchvision sees."""

    torch: str
    torchvision: str
    cuda: list[str] = field(default_factory=list)
    """Names of the GPUs."""
    mps: bool = False


def probe_torch(python: Sequence[str] = (sys.executable, "-c", _TORCH_PROBE)) -> TorchFacts | str:
    """Return what a fresh process finds, or why it does not."""
    try:
        done = subprocess.run(python, capture_output=True, text=True, timeout=TORCH_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        return f"importing torch took longer than {TORCH_TIMEOUT_S:.0f} s"
    if done.returncode != 0:
        return (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
    return TorchFacts(**json.loads(done.stdout.splitlines()[-1]))
