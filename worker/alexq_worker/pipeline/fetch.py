"""Between claim and decode, where images come over a network: threads that read them ahead of the decoders.

A decode thread that waited for its own image would do nothing for tens of milliseconds, and a thread per core
would starve the device. A store on this host's disks has no such stage: its images are read by the decoders.
"""

from __future__ import annotations

import threading

from alexq_schema.errors import UnavailableError
from alexq_worker.pipeline.decode import give_back, load
from alexq_worker.pipeline.flow import RETRY_S, Flow, Item, ItemQueue, take_all
from alexq_worker.pipeline.ports import ImageLoader, JobTable
from alexq_worker.pipeline.residents import Residents

AHEAD_BYTES = 256 * 2**20
"""Bytes of images read and not decoded, at the most; one image of more goes alone."""

AWAY_S = 600.0
"""Silence of the store after which a job's attempt counts as failed all the same."""

LOOK_EVERY_S = 0.1
"""How soon a thread that waits for room notices that draining began."""


class ByteBudget:
    """Bytes that may be held at once. For all threads."""

    def __init__(self, size_bytes: int) -> None:
        self._size = size_bytes
        self._held = 0
        self._changed = threading.Condition()

    def take(self, count: int, give_up: threading.Event) -> None:
        """Wait until there is room for ``count`` bytes, or nothing is held, and take them.

        Returns without them once ``give_up`` is set: then nobody needs room any more.
        """
        with self._changed:
            while self._held and self._held + count > self._size and not give_up.is_set():
                self._changed.wait(LOOK_EVERY_S)
            self._held += count

    def give(self, count: int) -> None:
        """Give bytes back."""
        with self._changed:
            self._held -= count
            self._changed.notify_all()


class FetchStage:
    """Shared by the fetch threads; None in ``claimed`` ends one of them."""

    def __init__(
        self,
        flow: Flow,
        table: JobTable,
        images: ImageLoader,
        residents: Residents,
        claimed: ItemQueue,
        items: ItemQueue,
        budget: ByteBudget,
    ) -> None:
        self._flow = flow
        self._table = table
        self._images = images
        self._residents = residents
        self._claimed = claimed
        self._items = items
        self._budget = budget
        self._answers = 0  # what the store has said; any change shows that it is there

    def run(self) -> None:
        """Read until told to end; once draining began, release what is not read."""
        while True:
            place, item = self._claimed.get()
            if item is None:
                return
            self._budget.take(item.claim.image_bytes, self._flow.draining)
            if self._flow.draining.is_set() or not self._fetch(item):
                give_back(self._flow, self._table, self._residents, [item, *take_all(self._claimed)])
            else:
                self._items.put((place, item))

    def _fetch(self, item: Item) -> bool:
        """Read an item's image, or find out why there is none; return False when draining began first.

        A store that answers nobody is away, and waited for, as the database is, but not for ever. When it
        answers others, it is this image that it does not give, and its job that rests and tries again.
        """
        answers: int | None = None
        began = self._flow.clock()
        while True:
            with self._flow.step("reading image {} of job {}", item.claim.image_key, item.claim.job_id):
                item.fetched = load(self._images, item.claim.image_key)
            if not isinstance(item.fetched, UnavailableError):
                self._answers += 1
                return True
            may_be_away = answers is None or answers == self._answers
            if not may_be_away or self._flow.clock() - began > AWAY_S:
                return True
            answers = self._answers
            self._flow.warn("reading images", item.fetched)
            with self._flow.waiting():
                if self._flow.draining.wait(RETRY_S):
                    return False
