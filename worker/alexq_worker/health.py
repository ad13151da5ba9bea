"""Whether a worker gets on, judged by its progress and not by its being there.

A process may live and do nothing: a device call that hangs, a consumer that is deaf since Redis came
back, a disk without room. Such a worker says so, in its health file and in its row, and ends; its
supervisor starts another, and its jobs return to the queue at once.

A service that does not answer is no illness: the worker waits, and does not end.
"""

from __future__ import annotations

import json
import logging
import math
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol
from uuid import UUID

from alexq_schema.db import workers
from alexq_schema.db.session import Database
from alexq_schema.errors import AlexqError

LAST_WORDS_S = 5.0
"""Time for telling the database, which may hang itself, before the process ends."""

PAUSED_S = 15.0
"""Time between two looks that only a process takes which was stopped as a whole."""

EXIT_UNHEALTHY = 70
"""The exit code of a worker that ended because it could not get on (EX_SOFTWARE of sysexits.h)."""

log = logging.getLogger("alexq.worker")


class Progress(Protocol):
    """The pipeline's side."""

    @property
    def is_idle(self) -> bool:
        """Return whether nothing is in flight, nothing is waited for and more would be taken."""

    @property
    def accepted(self) -> int:
        """Job ids handed in so far."""

    def stalled(self) -> tuple[float, str]:
        """Return what has not got on for longest: for how many seconds, and what, in words."""


class Watch:
    """Looks for the two ways of not getting on: stalled, and deaf."""

    def __init__(
        self,
        pipeline: Progress,
        waiting_messages: Callable[[], int],
        after_s: float,
        clock: Callable[[], float] = time.monotonic,
        paused_s: float = PAUSED_S,
    ) -> None:
        """Watch ``pipeline``.

        Args:
            paused_s: well above the time between two calls of :meth:`trouble`.
            waiting_messages: how many messages the broker has for any worker; raises OSError or
                redis.RedisError while it does not answer.
        """
        self._pipeline = pipeline
        self._waiting_messages = waiting_messages
        self._after_s = after_s
        self._clock = clock
        self._paused_s = paused_s
        self._accepted = 0
        self._deaf_since: float | None = None
        self._looked_at = self._awake_since = -math.inf

    def trouble(self) -> str | None:
        """Return why this worker does not get on, in words, or None."""
        now = self._clock()
        if now - self._looked_at > self._paused_s:  # nothing could get on while the whole process was stopped
            self._awake_since = now if math.isfinite(self._looked_at) else -math.inf
        self._looked_at = now
        stalled_s, what = self._pipeline.stalled()
        stalled_s = min(stalled_s, now - self._awake_since)
        if stalled_s > self._after_s:
            return f"no progress for {stalled_s:.0f} s: {what}"
        if (deaf_s := self._deaf_s()) > self._after_s:
            return f"took no message for {deaf_s:.0f} s though the queue has some: the consumer is deaf"
        return None

    def _deaf_s(self) -> float:
        """Return for how long messages have waited while this worker, idle, took none."""
        accepted = self._pipeline.accepted
        is_deaf = self._pipeline.is_idle and accepted == self._accepted and self._has_messages()
        self._accepted = accepted
        if not is_deaf:
            self._deaf_since = None
            return 0.0
        if self._deaf_since is None:
            self._deaf_since = self._clock()
        return self._clock() - self._deaf_since

    def _has_messages(self) -> bool:
        try:
            return self._waiting_messages() > 0
        except Exception:  # noqa: BLE001 - a broker that does not answer has nothing to be heard
            return False


class Health:
    """Tells supervisor and database how the worker is; ends the process when it is not well."""

    def __init__(
        self,
        database: Database,
        worker_id: UUID,
        file: Path,
        trouble: Callable[[], str | None],
        end: Callable[[int], object] = os._exit,
    ) -> None:
        self._database = database
        self._worker_id = worker_id
        self._file = Path(str(file).replace("{pid}", str(os.getpid())))
        self._trouble = trouble
        self._end = end
        self._writing = threading.Lock()  # a stage that broke tells of it on its own thread
        self._has_failed = False

    def look(self) -> None:
        """Rewrite the health file, or report the trouble and end the process."""
        trouble = self._trouble()
        if trouble is not None:
            self.fail(trouble)
            return
        self._write({"is_healthy": True})

    def fail(self, reason: str) -> None:
        """Report that this worker cannot get on, and end the process."""
        log.critical("unhealthy: %s; this process ends", reason)
        try:
            self._write({"is_healthy": False, "reason": reason})
        except OSError as error:  # a full disk may be the trouble itself
            log.error("cannot write the health file: %s", error)  # noqa: TRY400 - its cause is said
        teller = threading.Thread(target=self._tell_database, args=(reason,), daemon=True)
        teller.start()
        teller.join(LAST_WORDS_S)
        self._end(EXIT_UNHEALTHY)

    def leave(self) -> None:
        """Remove the health file: the worker stopped in good order."""
        self._file.unlink(missing_ok=True)

    def _tell_database(self, reason: str) -> None:
        try:
            with self._database.begin() as connection:
                workers.fall_ill(connection, self._worker_id, reason)
        except AlexqError as error:
            log.warning("could not tell the database: %s", error)

    def _write(self, state: dict[str, object]) -> None:
        with self._writing:
            if self._has_failed:
                return  # a heartbeat in between must not call a dying worker well
            self._has_failed = not state["is_healthy"]
            self._replace(state)

    def _replace(self, state: dict[str, object]) -> None:
        self._file.parent.mkdir(parents=True, exist_ok=True)
        draft = self._file.with_suffix(".tmp")
        draft.write_text(json.dumps({**state, "worker_id": str(self._worker_id), "pid": os.getpid()}) + "\n")
        draft.replace(self._file)
