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


@dataclass(slots=True)
class _Pending(Generic[Request, Answer]):
    request: Request
    asleep: threading.Lock = field(default_factory=_locked)
    """Released when it is served, and when it is its turn to serve; a lock wakes cheaper than an Event."""
    answer: Answer | None = None
    error: BaseException | None = None
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
                alone, so that a request at fault fails nobody else; ``serve`` must allow that.
        """
        self._serve = serve
        self._mutex = threading.Lock()
        self._waiting: list[_Pending[Request, Answer]] = []
        self._is_serving = False

    def __call__(self, request: Request) -> Answer:
        """Return the answer to ``request``; raises what ``serve`` raised."""
        mine: _Pending[Request, Answer] = _Pending(request)
        with self._mutex:
            self._waiting.append(mine)
            must_wait, self._is_serving = self._is_serving, True
        if must_wait:
            mine.asleep.acquire()
        if not mine.is_done:
            self._serve_all_that_wait()
        if mine.error is not None:
            raise mine.error
        return mine.answer  # type: ignore[return-value]  # set when there is no error

    def _serve_all_that_wait(self) -> None:
        with self._mutex:
            served, self._waiting = self._waiting, []
        self._serve_these(served)
        with self._mutex:
            successor = self._waiting[0] if self._waiting else None
            self._is_serving = successor is not None
        if successor is not None:
            successor.asleep.release()
        for one in served:
            one.asleep.release()

    def _serve_these(self, served: Sequence[_Pending[Request, Answer]]) -> None:
        try:
            answers = self._serve([one.request for one in served])
            for one, answer in zip(served, answers, strict=True):
                one.answer, one.is_done = answer, True
        except BaseException as error:  # noqa: BLE001 - each caller raises it in its own thread
            if len(served) > 1 and isinstance(error, Exception) and not isinstance(error, UnavailableError):
                for one in served:
                    self._serve_these([one])
                return
            for one in served:
                one.error, one.is_done = error, True
