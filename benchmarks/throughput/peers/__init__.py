"""What people would use instead of alexq, each with the same decode and forward: only the way there differs.

A row is imported when it is made: servers import modules of this package and must not pay for the others'.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

from benchmarks.throughput.contender import Contender


def _row(module: str, name: str) -> Callable[..., Contender]:
    def make(**settings: Any) -> Contender:
        contender: Contender = getattr(import_module(f"{__name__}.{module}"), name)(**settings)
        return contender

    return make


PEERS: dict[str, Callable[..., Contender]] = {
    "celery-prefork": _row("celery_rows", "CeleryPrefork"),
    "celery-solo": _row("celery_rows", "CelerySolo"),
    "celery-batches": _row("celery_rows", "CeleryBatches"),
    "mosec": _row("serving_rows", "Mosec"),
    "litserve": _row("serving_rows", "LitServe"),
    "ray-serve": _row("serving_rows", "RayServe"),
    "bentoml": _row("serving_rows", "BentoML"),
}
"""By name; each takes the settings of one of its ``tunings``, or none: its defaults."""
