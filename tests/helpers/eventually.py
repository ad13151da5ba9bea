"""Wait for something to become true, with a deadline."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def eventually(probe: Callable[[], T], timeout_s: float = 60.0, every_s: float = 0.05, what: str = "") -> T:
    """Return the first truthy value of ``probe``.

    Raises:
        AssertionError: none came within ``timeout_s``; says ``what`` was waited for.
    """
    deadline = time.monotonic() + timeout_s
    while not (value := probe()):
        if time.monotonic() > deadline:
            raise AssertionError(f"did not happen within {timeout_s} s: {what or probe}")
        time.sleep(every_s)
    return value
