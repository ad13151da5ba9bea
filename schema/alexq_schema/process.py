"""How a process that serves until it is told to stop begins, and how it ends where it cannot."""

from __future__ import annotations

import logging
from collections.abc import Callable

from alexq_schema import logs, tracing
from alexq_schema.errors import AlexqError, MigrationError, UnavailableError
from alexq_schema.settings import Settings

log = logging.getLogger("alexq")


def begin(name: str, load: Callable[[], Settings] = Settings.load) -> Settings:
    """Return the settings from the environment; from now on the process ``name`` logs and traces as it says.

    Raises:
        SettingsError: a value is malformed; names the variable and the value.
    """
    settings = load()
    logs.configure(settings.log_format, name)
    tracing.begin(name)
    return settings


def run(serve: Callable[[], object]) -> int:
    """Call ``serve``; return the exit code: 0 done, 2 wrong settings, 3 could not reach a service."""
    try:
        serve()
    except AlexqError as error:
        say_why(error)
        return 3 if isinstance(error, UnavailableError | MigrationError) else 2
    return 0


def say_why(error: AlexqError) -> None:
    """Say on stderr why this process ends: a plain line, unless the log has been configured before."""
    log.critical("error [%s]: %s", error.code, error, extra={"code": error.code})
