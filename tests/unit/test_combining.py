"""Whoever comes while one is served is served together with all who wait."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from alexq_producer.combining import Combining
from alexq_schema.errors import DatabaseUnavailableError
from tests.helpers.eventually import eventually


def test_one_caller_alone_is_served_at_once() -> None:
    assert Combining(lambda requests: [2 * number for number in requests])(21) == 42


def test_all_who_come_meanwhile_are_served_in_one_call_and_get_their_own_answers() -> None:
    may_go, calls = threading.Event(), []

    def double(numbers: Sequence[int]) -> list[int]:
        calls.append(len(numbers))
        assert may_go.wait(60)
        return [2 * number for number in numbers]

    combining = Combining(double)
    with ThreadPoolExecutor(32) as threads:
        first = threads.submit(combining, -1)
        eventually(lambda: calls == [1], what="the first is being served")
        others = {number: threads.submit(combining, number) for number in range(31)}
        eventually(lambda: len(combining._waiting) == 31, what="the others wait")
        may_go.set()

        assert first.result(60) == -2
        assert {number: future.result(60) for number, future in others.items()} == {
            number: 2 * number for number in range(31)
        }
    assert calls == [1, 31]


def test_what_goes_wrong_is_raised_to_everyone_it_was_done_for_and_to_nobody_after_them() -> None:
    is_broken = True

    def serve(requests: Sequence[int]) -> Sequence[int]:
        if is_broken:
            raise ZeroDivisionError
        return requests

    combining = Combining(serve)
    with pytest.raises(ZeroDivisionError):
        combining(1)
    is_broken = False

    assert combining(2) == 2


def test_threads_that_come_again_and_again_are_served_by_the_dozen() -> None:
    calls: list[int] = []

    def serve(requests: Sequence[int]) -> Sequence[int]:
        calls.append(len(requests))
        time.sleep(0.02)  # a sync and a transaction, on a slow disk
        return requests

    combining = Combining(serve)
    with ThreadPoolExecutor(32) as threads:
        assert list(threads.map(combining, range(640), timeout=200)) == list(range(640))

    assert len(calls) <= 640 / 4  # those who were served do not wait for the round after


def test_a_request_at_fault_fails_nobody_who_was_served_with_it() -> None:
    may_go, calls = threading.Event(), []

    def serve(numbers: Sequence[int]) -> Sequence[int]:
        calls.append(list(numbers))
        assert may_go.wait(60)
        if 7 in numbers:
            raise ZeroDivisionError("seven")
        return numbers

    combining = Combining(serve)
    with ThreadPoolExecutor(10) as threads:
        first = threads.submit(combining, -1)
        eventually(lambda: calls == [[-1]], what="the first is being served")
        others = {number: threads.submit(combining, number) for number in range(9)}
        eventually(lambda: len(combining._waiting) == 9, what="the others wait")
        may_go.set()

        assert first.result(60) == -1
        with pytest.raises(ZeroDivisionError):
            others.pop(7).result(60)
        assert [future.result(60) for future in others.values()] == list(others)


def test_an_outage_is_raised_to_all_at_once_and_not_waited_for_once_for_each() -> None:
    may_go, calls = threading.Event(), []

    def serve(numbers: Sequence[int]) -> Sequence[int]:
        calls.append(len(numbers))
        assert may_go.wait(60)
        raise DatabaseUnavailableError("down")

    combining = Combining(serve)
    with ThreadPoolExecutor(10) as threads:
        futures = [threads.submit(combining, 0)]
        eventually(lambda: calls == [1], what="the first is being served")
        futures += [threads.submit(combining, number) for number in range(1, 10)]
        eventually(lambda: len(combining._waiting) == 9, what="the others wait")
        may_go.set()
        for future in futures:
            with pytest.raises(DatabaseUnavailableError):
                future.result(60)
    assert calls == [1, 9]


def test_who_is_interrupted_while_waiting_keeps_nobody_waiting() -> None:
    may_go, is_served = threading.Event(), threading.Event()

    def serve(numbers: Sequence[int]) -> Sequence[int]:
        is_served.set()
        assert may_go.wait(60)
        return numbers

    combining = Combining(serve)
    with ThreadPoolExecutor(3) as threads:
        first = threads.submit(combining, 1)
        assert is_served.wait(60)
        caller = threading.get_ident()

        def interrupt() -> None:
            eventually(lambda: len(combining._waiting) == 1, what="the second waits")
            signal.pthread_kill(caller, signal.SIGINT)

        def be_interrupted() -> None:
            threads.submit(interrupt)
            combining(2)

        with pytest.raises(KeyboardInterrupt):
            be_interrupted()  # not before it is caught here, or it would end the tests
        third = threads.submit(combining, 3)
        eventually(lambda: len(combining._waiting) == 1, what="the third waits")
        may_go.set()

        assert (first.result(60), third.result(60)) == (1, 3)


class Interrupted:
    """A lock; who leaves it for the first time is interrupted there."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._is_first = True

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()
        was_first, self._is_first = self._is_first, False
        if was_first:
            raise KeyboardInterrupt


def test_who_is_interrupted_as_it_comes_keeps_nobody_waiting() -> None:
    combining = Combining(lambda numbers: numbers)
    combining._mutex = Interrupted()  # type: ignore[assignment]
    with pytest.raises(KeyboardInterrupt):
        combining(1)
    answers: list[int] = []
    other = threading.Thread(target=lambda: answers.append(combining(2)), daemon=True)
    other.start()
    other.join(60)

    assert answers == [2]


def test_who_is_interrupted_while_serving_leaves_the_others_to_the_next() -> None:
    may_go, is_served = threading.Event(), threading.Event()

    def serve(numbers: Sequence[int]) -> Sequence[int]:
        is_served.set()
        assert may_go.wait(60)
        if numbers[0] == 1 and len(numbers) > 1:
            raise KeyboardInterrupt
        return numbers

    combining = Combining(serve)
    with ThreadPoolExecutor(4) as threads:
        before = threads.submit(combining, 0)
        assert is_served.wait(60)
        interrupted = threads.submit(combining, 1)
        eventually(lambda: len(combining._waiting) == 1, what="the one to be interrupted waits")
        others = [threads.submit(combining, number) for number in (2, 3)]
        eventually(lambda: len(combining._waiting) == 3, what="the others wait")
        may_go.set()

        assert before.result(60) == 0
        with pytest.raises(KeyboardInterrupt):
            interrupted.result(60)
        assert sorted(other.result(60) for other in others) == [2, 3]
    assert combining(4) == 4
