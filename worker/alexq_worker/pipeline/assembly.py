"""Batches that fill while the device is busy and seal when it is free.

Two buffers: decode threads write into the open one while the engine reads the other. A decode
thread reserves its slot only when its picture is finished, so a sealed batch never waits for a
decode, only for the copies (tens of microseconds) of slots already reserved.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from alexq_worker.pipeline.policy import BatchPolicy
from alexq_worker.pipeline.ports import Picture, Pixels

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


class Assembly(Generic[Item]):
    """Where decode threads and the engine thread meet."""

    def __init__(self, new_buffer: Callable[[], Pixels], policy: BatchPolicy) -> None:
        self._policy = policy
        self._changed = threading.Condition()
        self._open: Batch[Item] = Batch(new_buffer())
        self._other: Batch[Item] = Batch(new_buffer())  # with the engine, or empty
        self._is_closed = False

    def add(self, item: Item, picture: Picture) -> None:
        """Write ``picture`` into a slot of the open batch; waits while that is full."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._open.items) < self._policy.limit)
            batch = self._open
            slot = batch.reserve(item)
        picture.write_to(slot)
        with self._changed:
            batch.written += 1
            self._changed.notify_all()

    def seal(self) -> Batch[Item] | None:
        """Return everything that is ready as one batch; waits for the first picture, never for more.

        The batch before it must have been recycled.

        Returns:
            None when :meth:`close` was called and nothing is left.
        """
        with self._changed:
            self._changed.wait_for(
                lambda: self._is_closed or self._policy.size_now(len(self._open.items)) > 0
            )
            if not self._open.items:
                return None
            self._open, self._other = self._other, self._open
            self._changed.notify_all()
            sealed = self._other
            self._changed.wait_for(lambda: sealed.written == len(sealed.items))
            return sealed

    def recycle(self, batch: Batch[Item]) -> None:
        """Give a sealed batch's buffer back; its pixels may be overwritten from now on."""
        batch.items = []
        batch.written = 0

    def close(self) -> None:
        """Say that no more pictures come; ``seal`` returns what is left, then None."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
