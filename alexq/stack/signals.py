"""What a person or a supervisor of ours says with signals."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def stopped_by_signals(request_stop: Callable[[], None]) -> Iterator[None]:
    """Turn SIGINT, SIGTERM and SIGHUP into calls of ``request_stop`` while the context lasts."""

    def ask(_number: int, _frame: object) -> None:
        request_stop()

    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup asked to outlive the terminal
        numbers.append(signal.SIGHUP)
    before = [signal.signal(number, ask) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
