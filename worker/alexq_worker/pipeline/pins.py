"""Beside the second stage: jobs that are pinned to a model version wait here until it is in memory.

A pinned job takes its version here, not when it is decoded: so what was loaded for it cannot be let go before
it is done, however many other versions are asked for meanwhile.
"""

from __future__ import annotations

import logging
import queue
from collections.abc import Sequence
from contextlib import suppress

from alexq_schema.errors import (
    AlexqError,
    FailedError,
    ModelNotFoundError,
    PinnedModelError,
)
from alexq_schema.work import Claim, Errored, Failed, Outcome
from alexq_worker.pipeline.flow import Ended, Flow, Forwarded, Item, ItemQueue
from alexq_worker.pipeline.past import Past
from alexq_worker.pipeline.policy import Rank
from alexq_worker.pipeline.ports import JobTable
from alexq_worker.pipeline.residents import Resident, Residents

Pinned = queue.SimpleQueue[tuple[Rank, Item] | None]
"""Claimed jobs that name a version, and their places among all; None ends the stage."""

log = logging.getLogger("alexq.pipeline")


class PinStage:
    """Owned by one thread, which loads one version after the other."""

    def __init__(
        self,
        flow: Flow,
        table: JobTable,
        residents: Residents,
        pinned: Pinned,
        items: ItemQueue,
        suspects: queue.SimpleQueue[Item | None],
        finished: queue.Queue[Forwarded | Ended | None],
        past: Past,
    ) -> None:
        self._flow = flow
        self._table = table
        self._residents = residents
        self._pinned = pinned
        self._items = items
        self._suspects = suspects
        self._finished = finished
        self._past = past

    def run(self) -> None:
        """Send pinned jobs on, each with its version; once draining began, release those that wait."""
        while (first := self._pinned.get()) is not None:
            for ref, group in self._grouped(first).items():
                self._send_on(ref, group)

    def _grouped(self, first: tuple[Rank, Item]) -> dict[str, list[tuple[Rank, Item]]]:
        """Return everything that waits, by version: each is loaded once for all who ask for it."""
        waiting = [first]
        with suppress(queue.Empty):
            while True:
                one = self._pinned.get_nowait()
                if one is None:  # the end: for the next look
                    self._pinned.put(None)
                    break
                waiting.append(one)
        groups: dict[str, list[tuple[Rank, Item]]] = {}
        for place, item in waiting:
            groups.setdefault(item.claim.pinned or "", []).append((place, item))
        return groups

    def _send_on(self, ref: str, group: Sequence[tuple[Rank, Item]]) -> None:
        try:
            resident = self._flow.until_answered(
                f"loading model {ref}",
                lambda: self._residents.take_pinned(ref, len(group), self._flow.draining),
                even_draining=False,
            )
        except Exception as error:
            if not isinstance(error, AlexqError):
                log.exception("loading model %s failed in a way that has no name", ref)
            for _, item in group:
                self._finished.put(Ended(item, _outcome(item.claim, error)))
            return
        if resident is None:
            self._flow.release(self._table, [item for _, item in group])
            return
        places = {item.claim.job_id: place for place, item in group}
        left = self._past.left([item for _, item in group], resident.model_id)
        going = self._flow.sharing.join(left, resident.model_id)
        for item in going:
            self._pass(places[item.claim.job_id], item, resident)
        self._residents.leave(resident, len(group) - len(going))

    def _pass(self, place: Rank, item: Item, resident: Resident) -> None:
        item.resident = resident
        if item.claim.crashes:
            self._suspects.put(item)
        else:
            self._items.put((place, item))


def _outcome(claim: Claim, error: Exception) -> Outcome:
    """Return what a version that cannot be had means for a job that names it."""
    if isinstance(error, ModelNotFoundError):
        return Failed(
            claim, PinnedModelError.code, f"the job is pinned to a version that is not there: {error}"
        )
    if isinstance(error, AlexqError):
        return Errored(claim, error.code, error.detail, error.is_retryable)
    return Errored(
        claim, FailedError.code, f"loading failed: {type(error).__name__}: {error}", is_retryable=False
    )
