"""What the stages share: the items that pass through, how many there are, and whether to stop."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar
from uuid import UUID

from alexq_schema.errors import UnavailableError
from alexq_schema.work import Claim, Outcome
from alexq_worker.pipeline.ports import TopK
from alexq_worker.pipeline.ticket import Ticket

RETRY_S = 1.0
"""Pause before a service that did not answer is asked again."""

WARN_EVERY_S = 5.0
"""An outage is logged this often, however many wait for its end."""

Answer = TypeVar("Answer")

log = logging.getLogger("alexq.pipeline")


@dataclass(slots=True)
class Item:
    """A claimed job on its way; in one stage's hands at a time."""

    claim: Claim
    ticket: Ticket
    decode_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Forwarded:
    """A batch that went through the device; made into outcomes by the committer, off the device's thread."""

    items: list[Item]
    top: TopK
    forward_s: float


@dataclass(frozen=True, slots=True)
class Ended:
    """An item whose outcome is known without the model."""

    item: Item
    outcome: Outcome


class Flow:
    """Counts the job ids in flight; knows when one last got on and whether to stop. For all threads."""

    def __init__(
        self, *, capacity: int, on_room: Callable[[], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.capacity = capacity
        self.clock = clock
        self.lock = threading.RLock()  # reentrant: a signal handler may drain
        self.in_flight = 0
        self.held: set[UUID] = set()  # claimed and not yet left; the claimer adds, any stage discards
        self.draining = threading.Event()
        self._on_room = on_room
        self._progress_at = clock()
        self._warned_at = -math.inf

    @property
    def has_room(self) -> bool:
        """Return whether more messages should be handed in."""
        return self.in_flight < self.capacity and not self.draining.is_set()

    def enter(self, count: int) -> None:
        """Note that ``count`` more ids are in flight."""
        with self.lock:
            if self.in_flight == 0:
                self._progress_at = self.clock()
            self.in_flight += count

    def let_go(self, items: Sequence[Item]) -> None:
        """Note that these jobs are settled."""
        with self.lock:
            self.held.difference_update(item.claim.job_id for item in items)
        self.leave(len(items))

    def leave(self, count: int) -> None:
        """Note that ``count`` ids are no longer in flight."""
        with self.lock:
            was_full = self.in_flight >= self.capacity
            self.in_flight -= count
            self._progress_at = self.clock()
            is_room_new = was_full and self.in_flight < self.capacity
        if is_room_new:
            self._on_room()

    def stalled_s(self) -> float:
        """Return for how long ids have been in flight without one of them leaving, in seconds."""
        with self.lock:
            return self.clock() - self._progress_at if self.in_flight else 0.0

    def until_answered(self, what: str, call: Callable[[], Answer], *, even_draining: bool) -> Answer | None:
        """Return what ``call`` returns, trying again while a service does not answer.

        Returns:
            None when draining began first and ``even_draining`` is false.
        """
        while True:
            try:
                return call()
            except UnavailableError as error:
                self._warn(what, error)
                if even_draining:
                    time.sleep(RETRY_S)
                elif self.draining.wait(RETRY_S):
                    return None

    def _warn(self, what: str, error: UnavailableError) -> None:
        with self.lock:
            is_due = self.clock() - self._warned_at >= WARN_EVERY_S
            if is_due:
                self._warned_at = self.clock()
        if is_due:
            log.warning("%s waits: %s", what, error)
