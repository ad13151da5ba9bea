"""Memory: a share for all pictures that are decoded, large blocks given back, huge pages for batches."""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from alexq_schema.errors import EngineError

_LARGE_BLOCK_BYTES = 4 * 2**20
"""glibc gives freed blocks of this size back to the system at once; left alone it learns from the first
large picture to keep up to 32 MB in the heap of every thread: 190 MB for two threads, measured."""

_WAIT_S = 60.0
"""Wait for other threads' pictures; a decode takes two seconds at most."""


class Memory:
    """Bytes that threads share, first come, first served."""

    def __init__(self, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        self._free_bytes = size_bytes
        self._turn = threading.Lock()  # whoever waits for much is not overtaken for ever
        self._changed = threading.Condition()

    @contextmanager
    def taken(self, count_bytes: int) -> Iterator[None]:
        """Hold ``count_bytes``, at most ``size_bytes``, within the context.

        Raises:
            EngineError: others held them for too long.
        """
        with self._turn, self._changed:
            if not self._changed.wait_for(lambda: self._free_bytes >= count_bytes, _WAIT_S):
                raise EngineError(f"no {count_bytes:,} bytes were free for a picture in {_WAIT_S:.0f} s")
            self._free_bytes -= count_bytes
        try:
            yield
        finally:
            with self._changed:
                self._free_bytes += count_bytes
                self._changed.notify_all()


def give_back_large_blocks() -> None:
    """Fix glibc's ``M_MMAP_THRESHOLD`` (mallopt(3)) for this process; no other C library has it."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(-3, _LARGE_BLOCK_BYTES)


def use_huge_pages() -> None:
    """Have PyTorch ask Linux for pages of 2 MB, unless the environment says otherwise.

    For before this process's first tensor: PyTorch reads the variable once. What a batch goes through on the
    CPU is allocated anew each time: in pages of 4 kB, 2 MB an image cost 500 page faults and a tenth of the
    CPU time; so it takes 90, and no more memory.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
