"""Named queues: operators divide work into classes, each with workers of its own."""

from __future__ import annotations

import re
from typing import Annotated, Final

from pydantic import AfterValidator

from alexq_schema.errors import UsageError

MAX_LENGTH: Final = 32


def checked(name: str) -> str:
    """Return ``name`` if a queue may be called so; the empty one is the default queue's.

    Raises:
        ValueError: it may not; says what may.
    """
    if name and not re.fullmatch(rf"[a-z0-9][a-z0-9-]{{0,{MAX_LENGTH - 1}}}", name):
        raise ValueError(
            f"queue {name[: 2 * MAX_LENGTH]!r}: give 1 to {MAX_LENGTH} of a-z, 0-9 and -, "
            "the first no -; an empty one is the default queue"
        )
    return name


def require(name: str) -> str:
    """Return ``name`` as :func:`checked`.

    Raises:
        UsageError: no queue may be called so; says what may.
    """
    try:
        return checked(name)
    except ValueError as error:
        raise UsageError(str(error)) from error


QueueName = Annotated[str, AfterValidator(checked)]
"""The name of a queue, in settings."""
