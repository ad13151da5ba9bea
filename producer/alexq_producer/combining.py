"""Work that is as cheap for many as for one is done for all who wait at once, without a timer.

Whoever comes while one is being served waits, and is served together with everyone else who waits: one
sync, one transaction, one round trip. Alone, a caller is served at once.

Source: flat combining (Hendler, Incze, Shavit and Tzafrir, SPAA 2010); databases call it group commit.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from alexq_schema.errors import UnavailableError

Request = TypeVar("Request")
Answer = TypeVar("Answer")


def _locked() -> threading.Lock:
    lock = threading.Lock()
    lock.acquire()
    return lock


@dataclass(slots=True, eq=False)
class _Pending(Generic[Request, Answer]):
    request: Request
    asleep: threading.Lock = field(default_factory=_locked)
    """Released when it is served, and when it is its turn to serve; a lock wakes cheaper than an Event."""
    answer: Answer | None = None
    error: Exception | None = None
    is_done: bool = False


class Combining(Generic[Request, Answer]):
    """Calls ``serve`` with the requests of all threads that wait; one call at a time.

    Whoever serves appoints the first of those who came meanwhile, so that nobody who has been served
    queues behind them.
    """

    def __init__(self, serve: Callable[[Sequence[Request]], Sequence[Answer]]) -> None:
        """Prepare.

        Args:
            serve: returns an answer for each request, in their order. When it raises UnavailableError, each
                of them raises it: a service is away for all alike. After any other error each is served
                alone, so that a request at fault fails nobody else; ``serve`` must allow that. One who is
                interrupted (Ctrl-C) while serving leaves the others to the next of them.
        """
        self._serve = serve
        self._mutex = threading.Lock()
        self._waiting: list[_Pending[Request, Answer]] = []
        self._served: list[_Pending[Request, Answer]] = []
        self._server: _Pending[Request, Answer] | None = None
        """Whose turn it is to serve."""

    def __call__(self, request: Request) -> Answer:
        """Return the answer to ``request``; raises what ``serve`` raised."""
        mine: _Pending[Request, Answer] = _Pending(request)
        try:
            with self._mutex:
                self._waiting.append(mine)
                must_wait = self._server is not None
                self._server = self._server or mine
            if must_wait:
                mine.asleep.acquire()
            if not mine.is_done:
                self._serve_all_that_wait()
        except BaseException:  # Ctrl-C came to this thread: the others are not to wait for it
            self._leave(mine)
            raise
        if mine.error is not None:
            raise mine.error
        return mine.answer  # type: ignore[return-value]  # set when there is no error

    def _serve_all_that_wait(self) -> None:
        with self._mutex:
            self._served, self._waiting = self._waiting, []
        self._serve_these(self._served)
        self._hand_over()

    def _leave(self, mine: _Pending[Request, Answer]) -> None:
        with self._mutex:
            if mine in self._waiting:
                self._waiting.remove(mine)
        if mine is self._server:
            self._served = [one for one in self._served if one is not mine]
            self._hand_over()

    def _hand_over(self) -> None:
        """Wake those who were served, and appoint the first of the others."""
        with self._mutex:
            served, self._served = self._served, []
            self._waiting[:0] = [one for one in served if not one.is_done]
            self._server = self._waiting[0] if self._waiting else None
            if self._server is not None:
                self._server.asleep.release()
        for one in served:
            if one.is_done:
                one.asleep.release()

    def _serve_these(self, served: Sequence[_Pending[Request, Answer]]) -> None:
        try:
            answers = self._serve([one.request for one in served])
            for one, answer in zip(served, answers, strict=True):
                one.answer, one.is_done = answer, True
        except Exception as error:  # noqa: BLE001 - each caller raises it in its own thread
            if len(served) > 1 and not isinstance(error, UnavailableError):
                for one in served:
                    self._serve_these([one])
                return
            for one in served:
                one.error, one.is_done = error, True
