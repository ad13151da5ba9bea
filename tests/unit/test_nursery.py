"""The nursery's children are told apart, whatever their numbers."""

from __future__ import annotations

import io
import json
import threading
from types import SimpleNamespace
from typing import Any

from benchmarks.chaos.nursery import Child, Nursery


def test_a_child_with_the_process_id_of_one_that_has_ended_is_not_taken_for_it() -> None:
    """Systems give out the same numbers again; a run of the tests starts enough for that."""
    news = [
        {"number": 1, "pid": 7},
        {"number": 1, "code": 3},
        {"number": 2, "pid": 7},
    ]
    stdout = io.BytesIO("".join(json.dumps(one) + "\n" for one in news).encode())
    nursery: Any = Nursery.__new__(Nursery)
    nursery._process = SimpleNamespace(stdout=stdout)
    nursery.news, nursery.codes, nursery._started = threading.Condition(), {}, {}
    nursery._read()

    first, second = Child(nursery, 1, nursery._started[1]), Child(nursery, 2, nursery._started[2])
    assert (first.pid, second.pid) == (7, 7)
    assert (first.poll(), second.poll()) == (3, None)
