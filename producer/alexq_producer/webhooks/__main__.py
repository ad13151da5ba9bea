"""``python -m alexq_producer.webhooks``: the webhook worker as a process, configured by ``ALEXQ_…``."""

from __future__ import annotations

import sys

from alexq_producer.webhooks.app import Process
from alexq_schema import process


def main() -> int:
    """Deliver until SIGTERM or SIGINT; return the exit code."""
    return process.run(lambda: Process(process.begin("webhooks")).run())


if __name__ == "__main__":
    sys.exit(main())
