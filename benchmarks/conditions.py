"""What a recorded figure depends on: the day, the machine, the versions."""

from __future__ import annotations

import platform
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from alexq_schema.settings import usable_cores


def conditions(*packages: str, **versions: str) -> dict[str, Any]:
    """Return ``at``, ``machine`` and ``versions`` of a result file.

    Args:
        packages: installed distributions whose versions matter.
        versions: of anything else, by name.
    """
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {
            "cores": usable_cores(),
            "processor": _processor(),
            "system": f"{platform.system()} {platform.machine()}",
        },
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in packages},
            **versions,
        },
    }


def _processor() -> str:
    """Return the processor's name, as the system gives it."""
    cpuinfo = Path("/proc/cpuinfo")
    for line in cpuinfo.read_text().splitlines() if cpuinfo.exists() else ():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()
