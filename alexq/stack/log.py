"""One log for many processes: every line carries the name of the child that wrote it."""

from __future__ import annotations

import contextlib
import json
import re
import threading
from datetime import UTC, datetime
from typing import Any, Final, TextIO

from rich.console import Console
from rich.text import Text

from alexq_schema.settings import LogFormat

OWN_NAME: Final = "alexq"
"""The name on the supervisor's own lines."""

_NAME_WIDTH: Final = 8
_COLOURS: Final = ("cyan", "green", "magenta", "blue", "yellow")
# A child's line is shown, not obeyed: an escape sequence in a file name must not move the cursor.
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class Log:
    """Writes ``name │ line`` to a stream, in colour on a terminal, or JSON. Any thread may call it."""

    def __init__(self, stream: TextIO | None = None, log_format: LogFormat = "console") -> None:
        """Write to ``stream``, or to stderr; as ``json``, children's objects stay as they are."""
        self._is_json = log_format == "json"
        # Console itself honours NO_COLOR and writes no control characters to what is no terminal.
        self._console = Console(file=stream, stderr=stream is None, highlight=False, soft_wrap=True)
        self._colours: dict[str, str] = {OWN_NAME: "bold"}
        self._lock = threading.Lock()

    def line(self, name: str, text: str, style: str = "") -> None:
        """Write one line under ``name``. A stream that was closed swallows it."""
        with self._lock:
            colour = self._colours.setdefault(name, _COLOURS[(len(self._colours) - 1) % len(_COLOURS)])
            if self._is_json:
                shown = Text(_as_json(name, text, "warning" if style else "info"))
            else:
                shown = Text(f"{name:<{_NAME_WIDTH}} │ ", style=colour)
                shown.append(_CONTROL.sub("", text), style=style or "none")
            with contextlib.suppress(OSError, ValueError):  # the terminal is gone; children must go on
                self._console.print(shown)

    def say(self, text: str) -> None:
        """Write one line of the supervisor's own."""
        self.line(OWN_NAME, text)

    def warn(self, text: str) -> None:
        """Write one line of the supervisor's own that a person should see."""
        self.line(OWN_NAME, text, style="yellow")


def _as_json(name: str, text: str, level: str) -> str:
    """Return a line as a JSON object; one that is one already, as our processes write them, is kept."""
    with contextlib.suppress(ValueError):
        if isinstance(json.loads(text), dict):
            return text
    line: dict[str, Any] = {
        "event": text,
        "level": level,
        "timestamp": datetime.now(UTC).isoformat().replace("+00:00", "Z"),
        "process": name,
    }
    return json.dumps(line)
