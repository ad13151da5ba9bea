"""Batches that fill while the device is busy and seal when it is free.

Two buffers: decode threads write into the open one while the engine reads the other. A decode
thread reserves its slot only when its picture is finished, so a sealed batch never waits for a
decode, only for the copies (tens of microseconds) of slots already reserved.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from alexq_worker.pipeline.ports import Picture, Pixels

Item = TypeVar("Item")


class Batch(Generic[Item]):
    """One buffer and whose pictures are in it."""

    def __init__(self, buffer: Pixels) -> None:
        self._buffer = buffer
        self.items: list[Item] = []
        self._written = 0

    @property
    def pixels(self) -> Pixels:
        """uint8[B, crop, crop, 3]: the filled part of the buffer, not a copy."""
        return self._buffer[: len(self.items)]


class Assembly(Generic[Item]):
    """Where decode threads and the engine thread meet."""

    def __init__(self, new_buffer: Callable[[], Pixels]) -> None:
        self._changed = threading.Condition()
        self._open: Batch[Item] | None = Batch(new_buffer())
        self._spare: Batch[Item] | None = Batch(new_buffer())
        self._capacity = len(self._open._buffer)
        self._is_closed = False

    def add(self, item: Item, picture: Picture) -> None:
        """Write ``picture`` into a slot of the open batch; waits while that is full or sealed."""
        with self._changed:
            self._changed.wait_for(lambda: self._has_slot)
            batch = self._open
            assert batch is not None
            slot = len(batch.items)
            batch.items.append(item)
        try:
            picture.write_to(batch._buffer[slot])
        finally:
            with self._changed:
                batch._written += 1
                self._changed.notify_all()

    @property
    def _has_slot(self) -> bool:
        return self._open is not None and len(self._open.items) < self._capacity

    def seal(self) -> Batch[Item] | None:
        """Return everything that is ready as one batch; waits for the first picture, never for more.

        Returns:
            None when :meth:`close` was called and nothing is left.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._is_closed or self._is_started)
            if not self._is_started:
                return None
            batch, self._open, self._spare = self._open, self._spare, None
            assert batch is not None
            self._changed.notify_all()
            self._changed.wait_for(lambda: batch._written == len(batch.items))
            return batch

    @property
    def _is_started(self) -> bool:
        return self._open is not None and bool(self._open.items)

    def recycle(self, batch: Batch[Item]) -> None:
        """Give a sealed batch's buffer back; its pixels may be overwritten from now on."""
        batch.items = []
        batch._written = 0
        with self._changed:
            if self._open is None:
                self._open = batch
            else:
                self._spare = batch
            self._changed.notify_all()

    def close(self) -> None:
        """Say that no more pictures come; ``seal`` returns what is left, then None."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
