"""How a process that serves until it is told to stop ends where it cannot."""

from __future__ import annotations

import sys
from collections.abc import Callable

from alexq_schema.errors import AlexqError, MigrationError, UnavailableError


def run(serve: Callable[[], object]) -> int:
    """Call ``serve``; return the exit code: 0 done, 2 wrong settings, 3 could not reach a service."""
    try:
        serve()
    except AlexqError as error:
        sys.stderr.write(f"error [{error.code}]: {error}\n")
        return 3 if isinstance(error, UnavailableError | MigrationError) else 2
    return 0
