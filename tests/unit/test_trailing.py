"""Work that nobody waits for."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from alexq_producer.trailing import Trailing


def test_what_waits_is_handled_together_and_in_order() -> None:
    handled: list[list[int]] = []
    begun, may_go_on = threading.Event(), threading.Event()

    def handle(items: Sequence[int]) -> None:
        handled.append(list(items))
        begun.set()
        may_go_on.wait(60)

    trailing = Trailing(handle, max_items=3)
    assert trailing.put([1])
    assert begun.wait(60)
    assert trailing.put([2])
    assert trailing.put([3, 4])
    assert not trailing.put([5])  # three wait already
    may_go_on.set()
    trailing.close(10)

    assert handled == [[1], [2, 3, 4]]
    assert not trailing.put([6])
    trailing.close(10)


def test_an_error_ends_nobody_elses_work() -> None:
    handled: list[int] = []

    def handle(items: Sequence[int]) -> None:
        handled.extend(items)
        if 1 in items:
            raise ValueError("a test")

    trailing = Trailing(handle, max_items=10)
    trailing.put([1])
    trailing.put([2])
    trailing.close(10)

    assert handled == [1, 2]


def test_closing_what_never_began_is_no_error() -> None:
    Trailing(lambda _items: None, max_items=1).close(0)
