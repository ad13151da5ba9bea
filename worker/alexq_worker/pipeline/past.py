"""Beside the first stage: claimed jobs that a past result answers go straight to the committer.

Asked once it is known which version would do them: the active one at their claim, or the one that they are
pinned to, when it is in memory. And before they lead or follow others: a tenant's past is nobody else's.
"""

from __future__ import annotations

import queue
from collections.abc import Sequence

from alexq_worker.pipeline.flow import Ended, Flow, Forwarded, Item
from alexq_worker.pipeline.ports import JobTable


class Past:
    """For the claimer and for the stage of pinned jobs."""

    def __init__(self, flow: Flow, table: JobTable, finished: queue.Queue[Forwarded | Ended | None]) -> None:
        self._flow = flow
        self._table = table
        self._finished = finished

    def left(self, items: Sequence[Item], model_id: int) -> list[Item]:
        """End those that a past result of this version answers; return the others, in order.

        One statement, and none where no job asks for it. If draining begins before the answer, all are left.
        """
        asking = [item.claim for item in items if item.claim.reuses]
        if not asking:
            return list(items)
        found = self._flow.until_answered(
            "looking for past results", lambda: self._table.find_past(asking, model_id), even_draining=False
        )
        known = {outcome.claim.job_id: outcome for outcome in found or ()}
        for item in items:
            if item.claim.job_id in known:
                self._finished.put(Ended(item, known[item.claim.job_id]))
        return [item for item in items if item.claim.job_id not in known]
