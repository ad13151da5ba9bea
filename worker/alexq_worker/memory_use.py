"""How much memory a worker has to do with, for its row."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from alexq_schema.db.workers import MemoryUse

_STATM = Path("/proc/self/statm")


def memory_use(device: Mapping[str, int]) -> MemoryUse | None:
    """Return what is taken of the device's memory, by whomever; where that is the host's, by this process.

    Args:
        device: bytes by kind, as :meth:`alexq_worker.inference.engine.Engine.device_memory` returns them.

    Returns:
        None where the device has no memory of its own and the system has no ``/proc``.
    """
    if device:
        return MemoryUse(used_bytes=device["total"] - device["free"], total_bytes=device["total"])
    try:
        resident = int(_STATM.read_text().split()[1])
    except OSError:
        return None
    page = os.sysconf("SC_PAGE_SIZE")
    return MemoryUse(used_bytes=resident * page, total_bytes=os.sysconf("SC_PHYS_PAGES") * page)
