"""Batches that fill while the device is busy and seal when it is free.

Two buffers for each model version: decode threads write into the open one while the engine reads the
other. A decode thread reserves its slot only when its picture is finished, so a sealed batch never waits for
a decode, only for the copies (tens of microseconds) of slots already reserved. Pictures of two versions are
never in one batch; versions that have some take turns.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import Generic, TypeVar
from weakref import WeakKeyDictionary

import numpy as np

from alexq_worker.pipeline.ports import Engine, Picture, Pixels
from alexq_worker.pipeline.residents import Resident

Item = TypeVar("Item")


class Batch(Generic[Item]):
    """One buffer and whose pictures are in it."""

    def __init__(self, buffer: Pixels) -> None:
        self._buffer = buffer
        self.items: list[Item] = []
        self.entries = 0
        """Slots that are taken: an image has one for each crop."""
        self.written = 0
        """Items whose copy is complete."""

    @property
    def pixels(self) -> Pixels:
        """uint8[B, crop, crop, 3]: the filled part of the buffer, not a copy."""
        return self._buffer[: self.entries]

    def fits(self, entries: int, limit: int) -> bool:
        """Return whether so many more slots may be taken; an empty batch takes any number."""
        return self.entries + entries <= limit or not self.items

    def reserve(self, item: Item, entries: int) -> Pixels:
        """Return the next slots, now ``item``'s: uint8[crop, crop, 3], or of several uint8[entries, …]."""
        if entries > len(self._buffer):  # a batch of its own
            self._buffer = np.empty((entries, *self._buffer.shape[1:]), np.uint8)
        first = self.entries
        self.items.append(item)
        self.entries += entries
        return self._buffer[first] if entries == 1 else self._buffer[first : self.entries]


class Pair(Generic[Item]):
    """The two batches of one version."""

    def __init__(self, engine: Engine) -> None:
        self.open: Batch[Item] = Batch(engine.new_batch())
        self.other: Batch[Item] = Batch(engine.new_batch())
        """With the engine, or empty."""


class Assembly(Generic[Item]):
    """Where decode threads and the engine thread meet."""

    def __init__(self, first: Resident) -> None:
        """Make the batches of ``first``; those of later versions are made when they have a picture."""
        self._changed = threading.Condition()
        self._pairs: WeakKeyDictionary[Resident, Pair[Item]] = WeakKeyDictionary()  # gone with the version
        self._pairs[first] = Pair(first.engine)
        self._ready: deque[Resident] = deque()  # those whose open batch has pictures, the longest first
        self._is_closed = False

    def waiting(self, resident: Resident) -> int:
        """Return how many pictures of this version the engine has not taken yet."""
        with self._changed:
            pair = self._pairs.get(resident)
            return len(pair.open.items) if pair else 0

    def add(self, item: Item, picture: Picture, resident: Resident, entries: int = 1) -> None:
        """Write ``picture`` into slots of its version's open batch; waits while that is full."""
        with self._changed:
            pair = self._pairs.get(resident)
            if pair is None:
                pair = self._pairs[resident] = Pair(resident.engine)
            self._changed.wait_for(lambda: pair.open.fits(entries, resident.policy.limit))
            batch = pair.open
            if not batch.items:
                self._ready.append(resident)
            slot = batch.reserve(item, entries)
        picture.write_to(slot)
        with self._changed:
            batch.written += 1
            self._changed.notify_all()

    def seal(self) -> tuple[Resident, Batch[Item]] | None:
        """Return everything of one version that is ready; waits for the first picture, never for more.

        The batch before it must have been recycled.

        Returns:
            None when :meth:`close` was called and nothing is left.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._is_closed or self._ready)
            if not self._ready:
                return None
            resident = self._ready.popleft()
            pair = self._pairs[resident]
            pair.open, pair.other = pair.other, pair.open
            self._changed.notify_all()
            sealed = pair.other
            self._changed.wait_for(lambda: sealed.written == len(sealed.items))
            return resident, sealed

    def recycle(self, batch: Batch[Item]) -> None:
        """Give a sealed batch's buffer back; its pixels may be overwritten from now on."""
        batch.items = []
        batch.entries = 0
        batch.written = 0

    def close(self) -> None:
        """Say that no more pictures come; ``seal`` returns what is left, then None."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
