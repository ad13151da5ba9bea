"""``python -m alexq_producer.gateway``: the HTTP gateway as a process, configured by ``ALEXQ_…``."""

from __future__ import annotations

import sys

from alexq_producer.gateway.app import serve
from alexq_schema.errors import AlexqError
from alexq_schema.settings import Settings


def main() -> int:
    """Serve until SIGTERM; return the exit code."""
    try:
        serve(Settings.load())
    except AlexqError as error:
        sys.stderr.write(f"error [{error.code}]: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
