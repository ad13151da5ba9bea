"""A thread that does one thing again and again."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from alexq_schema.errors import AlexqError

log = logging.getLogger("alexq.repeating")


class Repeating:
    """Calls ``action`` every ``interval_s`` on a thread of its own; what it raises is logged."""

    def __init__(
        self,
        name: str,
        interval_s: float,
        action: Callable[[], None],
        *,
        outages: tuple[type[Exception], ...] = (),
    ) -> None:
        """Prepare.

        Args:
            outages: errors that come and go, as AlexqError and OSError do: a line in the log, no traceback.
        """
        self._interval_s = interval_s
        self._action = action
        self._outages: tuple[type[Exception], ...] = (AlexqError, OSError, *outages)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Start; the first call comes at once."""
        self._thread.start()

    def stop(self) -> None:
        """Stop after the call in progress, which gets 5 s. May be called twice, or without a start."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join(5.0)

    def _run(self) -> None:
        while True:
            try:
                self._action()
            except self._outages as error:
                log.warning("%s: %s", self._thread.name, error)
            except Exception:
                log.exception("%s failed; it goes on", self._thread.name)
            if self._stop.wait(self._interval_s):
                return
