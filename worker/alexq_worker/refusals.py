"""Messages from which no job can be made: refused once, logged, recorded in SQL, never tried again.

Celery tells of a refused message in three ways: a task raises, a signal says that the task is unknown or
the message has no shape, or the consumer cannot decode it (a pickle, say).
"""

from __future__ import annotations

import logging
from collections import deque
from functools import partial
from typing import Any

from celery import bootsteps, signals

from alexq_schema.db import refusals
from alexq_schema.db.refusals import Refusal
from alexq_schema.db.session import Database
from alexq_schema.errors import MessageError

MAX_WAITING = 1_000
"""Refusals that wait to be recorded, at most: a flood of them must not fill the memory."""

log = logging.getLogger("alexq.worker")


class Refusals:
    """Collects refusals from any thread; :meth:`flush`, called now and then, writes them."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._waiting: deque[Refusal] = deque(maxlen=MAX_WAITING)

    def note(self, task: str, message_id: str, code: str, detail: str) -> None:
        """Log a refusal and keep it for the next :meth:`flush`."""
        log.warning("refused a message of %s: [%s] %s", task or "no task", code, detail)
        self._waiting.append(Refusal(task, message_id, code, detail))

    def flush(self) -> None:
        """Record what was noted: one statement.

        Raises:
            DatabaseUnavailableError: it stays noted.
        """
        some = list(self._waiting)
        if some:
            with self._database.begin() as connection:
                refusals.add(connection, some)
            for _ in some:
                self._waiting.popleft()

    def connect(self) -> None:
        """Listen to Celery's signals for messages that reach no task of ours."""
        signals.task_unknown.connect(self._unknown, weak=False)
        signals.task_rejected.connect(self._shapeless, weak=False)

    def _unknown(self, message: Any = None, name: str = "", id: str = "", **_: Any) -> None:  # noqa: A002
        self.note(str(name), str(id), MessageError.code, "this worker has no task of this name")

    def _shapeless(self, message: Any = None, exc: BaseException | None = None, **_: Any) -> None:
        self._note_message(message, f"not a Celery task message{f': {exc}' if exc else ''}")

    def _note_message(self, message: Any, detail: str) -> None:
        headers = getattr(message, "headers", None) or {}
        self.note(str(headers.get("task", "")), str(headers.get("id", "")), MessageError.code, detail)

    def step(self) -> type[bootsteps.StartStopStep]:
        """Return the consumer bootstep that notes messages which cannot be decoded."""
        refused = self

        class RefusalsStep(bootsteps.StartStopStep):  # type: ignore[misc]
            def start(self, consumer: Any) -> None:
                # The class's own, since a consumer starts anew after every loss of the broker.
                discard = partial(type(consumer).on_decode_error, consumer)

                def note_and_discard(message: Any, error: Exception) -> None:
                    refused._note_message(message, f"cannot be decoded: {error}")
                    discard(message, error)

                consumer.on_decode_error = note_and_discard

        return RefusalsStep
