"""Work that nobody waits for, done by one thread for all that has come meanwhile."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

Item = TypeVar("Item")

log = logging.getLogger("alexq.producer")


class Trailing(Generic[Item]):
    """Handles items in one thread, which the first of them starts; all that wait are handled together."""

    def __init__(self, handle: Callable[[Sequence[Item]], None], max_items: int) -> None:
        """Prepare.

        Args:
            max_items: that may wait.
        """
        self._handle = handle
        self._max_items = max_items
        self._changed = threading.Condition()
        self._waiting: list[Item] = []
        self._thread: threading.Thread | None = None
        self._is_closing = False

    def put(self, items: Sequence[Item]) -> bool:
        """Hand in items; return False, and take none, where too many wait or it is closed."""
        with self._changed:
            if self._is_closing or len(self._waiting) + len(items) > self._max_items:
                return False
            self._waiting += items
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="alexq-trailing", daemon=True)
                self._thread.start()
            self._changed.notify()
        return True

    def close(self, timeout_s: float) -> None:
        """Take nothing more; return when what waits is done, or after ``timeout_s``. Idempotent."""
        with self._changed:
            self._is_closing = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join(timeout_s)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._is_closing)
                if not self._waiting:
                    return
                taken, self._waiting = self._waiting, []
            try:
                self._handle(taken)
            except Exception:  # the process loop: whoever comes later must be served
                log.exception("%d items were not handled", len(taken))
