"""Whether a process gets on: that it only exists is not enough.

The embedded stack watches its workers with :class:`HealthFile`. Container engines run

    python -m alexq.stack.health [--or-starting] FILE|URL

for a worker's health file or a server's URL: 0 it gets on, 1 it does not, for the reason on stderr. With
``--or-starting`` a worker that has not written its file yet is well too: it may wait for a broker, and
ends by itself if it cannot begin.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from alexq.stack.probe import answers_http

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


def trouble_of_file(path: Path, *, may_be_starting: bool, now: float | None = None) -> str | None:
    """Return why the worker that writes ``path`` does not get on, or None.

    Args:
        path: its health file.
        may_be_starting: whether a worker without one is well.
        now: seconds since the epoch.
    """
    now = time.time() if now is None else now
    try:
        written_at = path.stat().st_mtime
        state = json.loads(path.read_bytes() or b"{}")  # a webhook worker's is empty
    except OSError as error:
        return None if may_be_starting else f"not ready: cannot read {path}: {error.strerror}"
    if written_at < _began_at(now):  # by the worker that was here before a restart
        return None if may_be_starting else f"not ready: {path} was left by an earlier process"
    if not state.get("is_healthy", True):
        return f"unhealthy: {state.get('reason')}"
    if (age_s := now - written_at) > MAX_AGE_S:
        return f"hung: {path} has not changed for {age_s:.0f} s"
    return None


def _began_at(now: float) -> float:
    """Return when the first process of this container began, in seconds since the epoch; -inf: unknown."""
    try:
        ticks = int(Path("/proc/1/stat").read_text().rpartition(")")[2].split()[19])
        uptime_s = float(Path("/proc/uptime").read_text().split()[0])
    except OSError:
        return float("-inf")
    return now - (uptime_s - ticks / os.sysconf("SC_CLK_TCK"))


def main() -> int:
    """Look once; return the exit code."""
    *options, target = sys.argv[1:]
    trouble: str | None
    if target.startswith("http:"):
        url = urlsplit(target)
        is_well = answers_http(url.hostname or "", url.port or 80, url.path or "/")
        trouble = None if is_well else f"{target} does not answer with 200"
    else:
        trouble = trouble_of_file(Path(target), may_be_starting="--or-starting" in options)
    if trouble:
        print(trouble, file=sys.stderr)  # noqa: T201 - for the container engine
    return 1 if trouble else 0


if __name__ == "__main__":
    sys.exit(main())
