"""What a task waits for: the fate of the job ids that its message named."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from concurrent.futures import Future
from dataclasses import dataclass, field
from uuid import UUID

from alexq_schema.job import Job
from alexq_schema.names import Lane


@dataclass(slots=True)
class Summary:
    """How a message ended."""

    claimed: int = 0
    """Of its jobs, those that were still to be done."""
    succeeded: int = 0
    """Of those, the ones that have a result now."""
    given_back: int = 0
    """Of its jobs, those that a stopping worker left for others: the message must go back too."""
    answers: dict[UUID, Job] = field(default_factory=dict)
    """The jobs whose submitter waits at Celery's own door."""


class Ticket:
    """Job ids on their way through the pipeline; any of its threads may settle one."""

    def __init__(self, job_ids: Iterable[UUID], lane: Lane, future: Future[Summary] | None = None) -> None:
        self.job_ids = tuple(job_ids)
        self.lane = lane
        self.future: Future[Summary] = future or Future()
        self._lock = threading.Lock()
        self._summary = Summary()
        self._open = 0

    def start(self, claimed: int) -> None:
        """Note how many of the ids were claimed; with none, the ticket is done."""
        self._summary.claimed = self._open = claimed
        if claimed == 0:
            self.future.set_result(self._summary)

    def settle(self, answer: Job | None = None, *, succeeded: bool) -> None:
        """Note that one claimed job is committed."""
        with self._lock:
            self._summary.succeeded += succeeded
            if answer is not None and answer.job_id is not None:
                self._summary.answers[answer.job_id] = answer
            self._close_one()

    def give_back(self) -> None:
        """Note that one claimed job was released."""
        with self._lock:
            self._summary.given_back += 1
            self._close_one()

    def give_back_all(self) -> None:
        """Note that none of the ids was looked at."""
        self._summary.given_back = len(self.job_ids)
        self.future.set_result(self._summary)

    def _close_one(self) -> None:
        self._open -= 1
        if self._open == 0:
            self.future.set_result(self._summary)
