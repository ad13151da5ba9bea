"""A worker that SIGKILLs itself at a chosen place; production code knows nothing of it.

    python -m benchmarks.chaos.faulty_worker --failpoint NAME --after N

The right method is wrapped from outside, then the worker's own ``main`` runs. The process dies at the
N-th pass through the place.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

Install = Callable[[Callable[[], None]], None]


class Trap:
    """Kills this process at the ``after``-th pass."""

    def __init__(self, after: int) -> None:
        self._left = after
        self._lock = threading.Lock()

    def __call__(self) -> None:
        """Count a pass."""
        with self._lock:
            self._left -= 1
            if self._left == 0:
                os.kill(os.getpid(), signal.SIGKILL)


def before(owner: Any, name: str, spring: Callable[[], None]) -> None:
    """Spring before ``owner.name`` runs."""
    original = getattr(owner, name)

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        spring()
        return original(*args, **kwargs)

    setattr(owner, name, wrapped)


def after(owner: Any, name: str, spring: Callable[[], None]) -> None:
    """Spring when ``owner.name`` has returned something."""
    original = getattr(owner, name)

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        answer = original(*args, **kwargs)
        if answer:
            spring()
        return answer

    setattr(owner, name, wrapped)


def woken(spring: Callable[[], None]) -> None:
    """The broker woke us: a message is on the queue's second list, and nobody has taken it."""
    from alexq_worker.transport import Channel

    answer_to = Channel._answer

    def wrapped(channel: Channel, command: str, options: dict[str, Any]) -> Any:
        answer = answer_to(channel, command, options)
        if answer and command == "BLMOVE":
            spring()
        return answer

    setattr(Channel, "_answer", wrapped)  # noqa: B010 - from outside


def taken(spring: Callable[[], None]) -> None:
    """Messages have been taken; nothing has been done with them."""
    from alexq_worker.transport import Channel

    before(Channel, "_hand_out", spring)


def claimed(spring: Callable[[], None]) -> None:
    """Jobs have been claimed; none has been decoded."""
    from alexq_worker.table import SqlJobTable

    after(SqlJobTable, "claim", spring)


def decoded(spring: Callable[[], None]) -> None:
    """A batch has been decoded; it has not been through the model."""
    from alexq_worker.pipeline.forward import ForwardStage

    before(ForwardStage, "_classify", spring)  # the engine itself also classifies to warm up


def forwarded(spring: Callable[[], None]) -> None:
    """A batch has been through the model; nothing is written."""
    from alexq_worker.table import SqlJobTable

    before(SqlJobTable, "commit", spring)


def in_transaction(spring: Callable[[], None]) -> None:
    """The results are written; the COMMIT is not."""
    from alexq_schema.db import jobs

    after(jobs, "commit", spring)


def committed(spring: Callable[[], None]) -> None:
    """The results are committed; no message has been acked, nobody told."""
    from alexq_worker.table import SqlJobTable

    after(SqlJobTable, "commit", spring)


def sweeping(spring: Callable[[], None]) -> None:
    """Rows have been marked as published; their messages have not gone out."""
    import alexq_worker.app

    sweeper: Any = vars(alexq_worker.app)["Sweeper"]  # wherever it lives
    before(sys.modules[sweeper.__module__], "publish", spring)


FAILPOINTS: dict[str, Install] = {
    "woken": woken,
    "taken": taken,
    "claimed": claimed,
    "decoded": decoded,
    "forwarded": forwarded,
    "in-transaction": in_transaction,
    "committed": committed,
    "sweeping": sweeping,
}


def main() -> int:
    """Install the failpoint and run a worker."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--failpoint", choices=FAILPOINTS, required=True)
    parser.add_argument("--after", type=int, default=1)
    arguments = parser.parse_args()
    FAILPOINTS[arguments.failpoint](Trap(arguments.after))
    from alexq_worker.app import main as work

    return work()


if __name__ == "__main__":
    sys.exit(main())
