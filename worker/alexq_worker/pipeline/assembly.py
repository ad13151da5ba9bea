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

from alexq_worker.pipeline.ports import Engine, Picture, Pixels
from alexq_worker.pipeline.residents import Resident

Item = TypeVar("Item")


class Batch(Generic[Item]):
    """One buffer and whose pictures are in it."""

    def __init__(self, buffer: Pixels) -> None:
        self._buffer = buffer
        self.items: list[Item] = []
        self.written = 0
        """Slots whose copy is complete."""

    @property
    def pixels(self) -> Pixels:
        """uint8[B, crop, crop, 3]: the filled part of the buffer, not a copy."""
        return self._buffer[: len(self.items)]

    def reserve(self, item: Item) -> Pixels:
        """Return the next slot, uint8[crop, crop, 3], now ``item``'s."""
        self.items.append(item)
        slot: Pixels = self._buffer[len(self.items) - 1]
        return slot


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

    def add(self, item: Item, picture: Picture, resident: Resident) -> None:
        """Write ``picture`` into a slot of its version's open batch; waits while that is full."""
        with self._changed:
            pair = self._pairs.get(resident)
            if pair is None:
                pair = self._pairs[resident] = Pair(resident.engine)
            self._changed.wait_for(lambda: len(pair.open.items) < resident.policy.limit)
            batch = pair.open
            if not batch.items:
                self._ready.append(resident)
            slot = batch.reserve(item)
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
        batch.written = 0

    def close(self) -> None:
        """Say that no more pictures come; ``seal`` returns what is left, then None."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
