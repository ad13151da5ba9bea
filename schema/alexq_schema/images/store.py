"""The image store's contract: content-addressed bytes, accepted only once they are on disk.

An image's key is the SHA-256 of its bytes, so an image is stored once however often it is
submitted, and goes when no job needs it any more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import TracebackType
from typing import BinaryIO, Protocol, Self

PARTS = 256
"""A store is cleaned in this many parts, one at a time, by the first byte of the key."""

ABANDONED_AFTER_S = 86_400.0
"""Age at which an image that no job needs may go: its submission has inserted its rows long since."""


class Staging(Protocol):
    """Images on their way into the store; leaving the context without ``publish`` drops them."""

    def add(self, data: bytes) -> str:
        """Take an image in and return its key.

        Raises:
            ImageStoreError: the store is full or does not answer.
        """

    def add_file(self, file: BinaryIO) -> str:
        """Take in the image that ``file``, which must be seekable, holds from its start; as :meth:`add`."""

    def prepare(self) -> None:
        """Do ahead what publishing takes of this staging alone; it may be called twice, or not at all.

        Who publishes many stagings together calls it on each before, in its own thread: then nobody waits
        for another's upload. What was prepared may be readable under its key already.

        Raises:
            ImageStoreError: the store is full or does not answer.
        """

    def publish(self) -> None:
        """Publish this staging alone: see :meth:`ImageStore.publish`."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class ImageStore(Protocol):
    """Where images lie between submission and decoding. Any number of threads may use one."""

    @property
    def is_remote(self) -> bool:
        """Whether reading an image waits for a network: then many should be read at once, ahead of need."""

    def staging(self) -> Staging:
        """Return a new, empty staging."""

    def publish(self, stagings: Sequence[Staging]) -> None:
        """Make every image of these stagings readable under its key and durable: one sync for all.

        Raises:
            ImageStoreError: the store is full or does not answer; nothing is promised of any image.
        """

    def get(self, key: str) -> bytes:
        """Return an image's bytes, checked against its key.

        Raises:
            ImageNotFoundError: there is none of this key.
            ImageLostError: the stored bytes are damaged.
            ImageStoreError: the store does not answer.
        """

    def check(self) -> None:
        """Raise ImageStoreError, which says what to do, unless images can be written; nothing stays."""

    def discard_unneeded(self, part: int, needed: Callable[[Sequence[str]], set[str]]) -> int:
        """Delete the images of one part that no job needs, and drafts left by processes that died.

        Only what was neither stored nor submitted again for ``ABANDONED_AFTER_S``: younger ones may
        belong to a submission whose rows are not there yet.

        Args:
            part: 0 ≤ part < ``PARTS``.
            needed: given keys, returns those that must stay.

        Returns:
            How many images were deleted.

        Raises:
            ImageStoreError: the store does not answer; call again later.
        """
