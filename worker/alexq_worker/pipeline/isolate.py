"""Beside the second and third stage: suspects run alone, in a child, one at a time.

A suspect is a job whose process has died before. Its image may be what killed it, so it comes near no
other job again.
"""

from __future__ import annotations

import queue

from alexq_schema.work import Errored
from alexq_worker.pipeline.flow import Ended, Flow, Forwarded, Item
from alexq_worker.pipeline.ports import Isolation, JobTable
from alexq_worker.pipeline.residents import Residents


class IsolateStage:
    """Owned by one thread; None in ``suspects`` ends it."""

    def __init__(
        self,
        flow: Flow,
        table: JobTable,
        isolation: Isolation,
        residents: Residents,
        suspects: queue.SimpleQueue[Item | None],
        finished: queue.Queue[Forwarded | Ended | None],
    ) -> None:
        self._flow = flow
        self._table = table
        self._isolation = isolation
        self._residents = residents
        self._suspects = suspects
        self._finished = finished

    def run(self) -> None:
        """Run suspects until told to end; once draining began, release those that have no outcome."""
        while (item := self._suspects.get()) is not None:
            self._run(item)
            if item.resident is not None:
                self._residents.leave(item.resident)

    def _run(self, item: Item) -> None:
        if self._flow.draining.is_set():
            self._flow.release(self._table, [item])
            return
        with self._flow.waiting():
            outcome = self._isolation.classify(item.claim, item.resident or self._residents.active)
        if self._flow.draining.is_set() and isinstance(outcome, Errored):
            self._flow.release(self._table, [item])  # ended with the child, not by its own fault
        else:
            self._finished.put(Ended(item, outcome))
