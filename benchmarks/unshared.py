"""Whether a measurement computed every image: workers answer identical ones in flight with one forward."""

from __future__ import annotations

import re
from pathlib import Path

_SHARED = re.compile(r"""\bshared["']?[=:] ?(\d+)""")


def require_nothing_shared(log: Path) -> None:
    """Check what workers wrote of their batches, as console lines or JSON.

    Raises:
        RuntimeError: a job was answered by another's forward, so that rates are not those of images; or there
            is no line of a batch to judge by.
    """
    told = [int(count) for count in _SHARED.findall(log.read_text(errors="replace"))]
    if not told:
        raise RuntimeError(f"{log} has no line of a batch that says how many jobs were shared")
    if any(told):
        raise RuntimeError(
            f"{sum(told)} jobs were answered by another's forward: what is measured needs distinct images"
        )
