"""Identical images in flight are computed once: who goes through the pipeline, and who waits for whom.

The first job of an image leads: it goes through the stages. Jobs of the same image, version and options that
are claimed before its outcome is about to be committed follow it: they are in no queue, have no place in a
batch, and get what became of their leader under claims of their own. An item leaves the pipeline by a
commit or by a release, and both take its followers along (:meth:`Sharing.close`).

Only plain jobs lead or follow: a suspect runs alone, one that had an error is tried by itself, and one with
a deadline may expire where others go on.
"""

from __future__ import annotations

import threading
from collections.abc import Hashable, Iterable, Sequence
from typing import TYPE_CHECKING

from alexq_schema.names import Lane
from alexq_schema.options import asked_of_model

if TYPE_CHECKING:
    from alexq_schema.work import Claim
    from alexq_worker.pipeline.flow import Item


class Sharing:
    """The leaders in flight. Any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._leaders: dict[Hashable, Item] = {}

    def join(self, items: Sequence[Item], model_id: int) -> list[Item]:
        """Have items follow leaders that are in flight; return those that must go through the stages.

        Args:
            model_id: the version that is active, or that all are pinned to: who is claimed after a switch
                does not follow one that was claimed before it.
        """
        alone: list[Item] = []
        with self._lock:
            for item in items:
                claim = item.claim
                if claim.crashes or claim.errors or claim.left_s is not None:
                    alone.append(item)
                    continue
                key = _key(claim, model_id)
                leader = self._leaders.get(key)
                if leader is not None and leader.ticket.lane in (item.ticket.lane, Lane.INTERACTIVE):
                    leader.followers.append(item)
                    continue
                item.shared_as = key
                self._leaders[key] = item  # an interactive one instead of a bulk one, which may be far back
                alone.append(item)
        return alone

    def close(self, items: Iterable[Item]) -> None:
        """Let nobody follow these any more: from now on their followers are final."""
        with self._lock:
            for item in items:
                if item.shared_as is not None and self._leaders.get(item.shared_as) is item:
                    del self._leaders[item.shared_as]


def _key(claim: Claim, model_id: int) -> Hashable:
    """Return what two jobs have in common that get the same answer."""
    return claim.image_key, claim.pinned, model_id, asked_of_model(claim.options)
