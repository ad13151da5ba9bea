"""``python -m alexq_producer.gateway``: the HTTP gateway as a process, configured by ``ALEXQ_…``."""

from __future__ import annotations

import sys

from alexq_producer.gateway.app import serve
from alexq_schema import process


def main() -> int:
    """Serve until SIGTERM; return the exit code."""
    return process.run(lambda: serve(process.begin("gateway")))


if __name__ == "__main__":
    sys.exit(main())
