"""The file that a process rewrites for as long as it gets on."""

from __future__ import annotations

import os
from pathlib import Path

from alexq_schema.errors import SettingsError


def writable(pattern: Path) -> Path:
    """Return this process's health file, which can be written: else who watches would take it for a hung one.

    Args:
        pattern: its path, in which ``{pid}`` stands for the process id.

    Raises:
        SettingsError: it cannot; names what is in the way.
    """
    file = Path(str(pattern).replace("{pid}", str(os.getpid())))
    draft = file.with_suffix(".tmp")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        draft.write_text("a process that begins\n")
        draft.unlink()
    except OSError as error:
        raise SettingsError(
            f"ALEXQ_HEALTH_FILE={str(file)!r} cannot be written: {error.strerror}; free space there, or "
            "name a file elsewhere"
        ) from error
    return file
