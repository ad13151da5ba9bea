"""``python -m alexq_monitor``: the dashboard as a process, configured by ``ALEXQ_…`` and ``FLOWER_…``."""

from __future__ import annotations

import sys

from alexq_monitor.app import build, serve
from alexq_schema import process


def main() -> int:
    """Serve until SIGTERM; return the exit code."""
    return process.run(lambda: serve(build(process.begin("monitor"))))


if __name__ == "__main__":
    sys.exit(main())
