"""A lock on one image of an object store: an object that can be created once."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Self
from uuid import uuid4

from obstore.exceptions import AlreadyExistsError, BaseError, PreconditionError

from alexq_schema.errors import ImageStoreError

if TYPE_CHECKING:
    from obstore.store import ObjectStore

HOLD_S = 60.0
"""What is done under a lock must have begun by then; a request takes seconds."""
STALE_AFTER_S = 1800.0
"""Age at which a lock was left by a process that died: longer than the quarter of an hour by which clocks
may differ, as S3 refuses requests of others, and than what a request takes."""
WAIT_S = 10.0
LOOK_EVERY_S = 0.2


class Lock:
    """Held by one process at a time, and by one of its threads; waits for the holder at most ``WAIT_S``."""

    def __init__(
        self, objects: ObjectStore, once: ObjectStore, key: str, clock: Callable[[], float] = time.time
    ) -> None:
        """Prepare.

        Args:
            once: the same store, but no request to it is repeated.
        """
        self._objects = objects
        self._once = once
        self._key = key
        self._place = f"locks/{key[:2]}/{key}"
        self._clock = clock
        self._since = 0.0

    @property
    def is_sure(self) -> bool:
        """Return whether the lock was taken so lately that nobody can have taken it for stale."""
        return time.monotonic() - self._since < HOLD_S

    def __enter__(self) -> Self:
        deadline = time.monotonic() + WAIT_S
        token = uuid4().bytes  # so that no two locks have the same tag
        while True:
            self._since = time.monotonic()
            if self._is_taken(token):
                return self
            if time.monotonic() > deadline:
                raise ImageStoreError(
                    f"image {self._key} is being deleted or renewed by another process: submit it again"
                )
            time.sleep(LOOK_EVERY_S)

    def _is_taken(self, token: bytes) -> bool:
        with suppress(AlreadyExistsError):
            self._objects.put(self._place, token, mode="create", use_multipart=False)
            return True
        with suppress(FileNotFoundError, PreconditionError):  # given back, or taken over, meanwhile
            held = self._objects.head(self._place)
            if self._clock() - held["last_modified"].timestamp() > STALE_AFTER_S:
                self._objects.put(self._place, token, mode={"e_tag": held["e_tag"]}, use_multipart=False)
                return True
        return False

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.is_sure:
            with suppress(BaseError, OSError):  # it goes stale
                self._once.delete(self._place)
