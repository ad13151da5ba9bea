"""How long a new job will wait, told by what waits already."""

from __future__ import annotations

from typing import Final

from alexq_schema.db.backlog import WINDOW_S, Queue

LEAST_S: Final = 5.0
"""Workers that were busy for less time say nothing about their speed."""


def drain_s(queue: Queue, added: int) -> float:
    """Return the estimated time until a lane's queue, and what goes before it, is done, in seconds.

    What waits, divided by the speed at which workers finish jobs. That speed is measured only over the time
    during which something waited: idle workers finish as much as comes, not as much as they can. Where it
    cannot be told (something has waited for less than ``LEAST_S``, or nothing has finished since) the
    estimate is the time that the oldest job has waited: the next one will hardly wait less.

    Args:
        added: jobs accepted since ``queue`` was read.
    """
    measured_s = min(queue.waited_s, WINDOW_S)
    if queue.finished and measured_s >= LEAST_S:
        return (queue.jobs + added) * measured_s / queue.finished
    return queue.waited_s
