"""Whether a worker still rewrites its health file: a process that only exists is not enough."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

MAX_AGE_S: Final = 60.0
"""A health file that has not changed for this long is a hung process's."""


class HealthFile:
    """Watches the health file of the worker with a certain pid, whichever that is at the time."""

    def __init__(self, pattern: Path, clock: Callable[[], float] = time.monotonic) -> None:
        """Watch ``pattern``, in which ``{pid}`` stands for the process id."""
        self._pattern = str(pattern)
        self._clock = clock
        self._seen: tuple[int, int] | None = None
        self._changed_at = 0.0

    def exists(self, pid: int) -> bool:
        """Return whether ``pid`` has written its file: it is ready."""
        return self._path(pid).exists()

    def is_fresh(self, pid: int) -> bool:
        """Return whether the file of ``pid`` changed within ``MAX_AGE_S``; call it now and then.

        Ages are counted here, on a clock that cannot jump, not read off the file.
        """
        try:
            mtime_ns = self._path(pid).stat().st_mtime_ns
        except OSError:
            mtime_ns = 0
        if (pid, mtime_ns) != self._seen:
            self._seen = (pid, mtime_ns)
            self._changed_at = self._clock()
        return self._clock() - self._changed_at < MAX_AGE_S

    def _path(self, pid: int) -> Path:
        return Path(self._pattern.replace("{pid}", str(pid)))
