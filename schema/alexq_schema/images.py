"""The image store: content-addressed bytes, accepted only once they are on disk.

An image's key is the SHA-256 of its bytes, so an image is stored once however often it is
submitted, and goes when no job needs it any more. The file store lays them out as
``<root>/ab/abcdef…`` and writes through ``<root>/tmp``.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self
from urllib.parse import unquote, urlsplit
from uuid import uuid4

from alexq_schema.errors import (
    ImageEmptyError,
    ImageLostError,
    ImageNotFoundError,
    ImageStoreError,
    ImageTooLargeError,
    ImageTypeError,
    SettingsError,
)

PARTS = 256
"""A store is cleaned in this many parts, one at a time, by the first byte of the key."""

ABANDONED_AFTER_S = 86_400.0
"""Age at which an image that no job needs may go: its submission has inserted its rows long since."""


def check_image(data: bytes, source: str, max_bytes: int) -> None:
    """Check what can be told without decoding: size, and the type from the first bytes.

    Raises:
        ImageEmptyError, ImageTooLargeError, ImageTypeError: each names ``source``.
    """
    if not data:
        raise ImageEmptyError(f"{source}: the file is empty")
    if len(data) > max_bytes:
        raise ImageTooLargeError(
            f"{source}: {len(data):,} bytes, allowed are {max_bytes:,} (ALEXQ_MAX_IMAGE_BYTES)"
        )
    if not _is_accepted_type(data[:16]):
        raise ImageTypeError(
            f"{source}: not an image that alexq accepts (JPEG, PNG, WebP, GIF); it begins with {data[:8]!r}"
        )


def _is_accepted_type(head: bytes) -> bool:
    is_webp = head[:4] == b"RIFF" and head[8:12] == b"WEBP"
    return is_webp or head.startswith((b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a"))


class Staging(Protocol):
    """Images on their way into the store; leaving the context without ``publish`` drops them."""

    def add(self, data: bytes) -> str:
        """Take an image in and return its key.

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
    """Where images lie between submission and decoding."""

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


def open_image_store(url: str) -> ImageStore:
    """Return the store at ``url``: ``file:///folder``.

    Raises:
        SettingsError: another scheme, or a relative path.
    """
    parts = urlsplit(url)
    if parts.scheme != "file" or parts.netloc not in ("", "localhost") or not parts.path.startswith("/"):
        raise SettingsError(f"ALEXQ_IMAGES_URL={url!r}: alexq knows file:///absolute/folder")
    return FileImageStore(Path(unquote(parts.path)))


class FileImageStore:
    """Images as files below ``root``; made on first use."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, key: str) -> Path:
        """Return where the image of ``key`` lies."""
        return self.root / key[:2] / key

    def staging(self) -> FileStaging:
        """Return a new, empty staging."""
        return FileStaging(self)

    def publish(self, stagings: Sequence[Staging]) -> None:
        """Make every image readable under its key and durable: one sync (see :class:`ImageStore`)."""
        paths: set[Path] = set()
        try:
            for staging in stagings:
                assert isinstance(staging, FileStaging)
                paths.update(staging.move())
            for path in paths:
                os.utime(path)  # young again: see ABANDONED_AFTER_S
            if paths:
                _sync(self.root, sorted(paths))
        except OSError as error:
            raise _store_error(self.root, error) from error

    def get(self, key: str) -> bytes:
        """Return an image's bytes, checked against its key (see :class:`ImageStore`)."""
        path = self.path(key)
        try:
            data = path.read_bytes()
        except FileNotFoundError as error:
            raise ImageNotFoundError(f"no image {key} in the store {self.root}") from error
        except OSError as error:
            raise ImageStoreError(f"cannot read {path}: {error.strerror}") from error
        if hashlib.sha256(data).hexdigest() != key:
            raise ImageLostError(f"{path} is damaged: its bytes do not hash to its name")
        return data

    def discard_unneeded(self, part: int, needed: Callable[[Sequence[str]], set[str]]) -> int:
        """Delete the images of one part that no job needs (see :class:`ImageStore`)."""
        before = time.time() - ABANDONED_AFTER_S
        try:
            for draft in self._older(self.root / "tmp", before):
                draft.unlink(missing_ok=True)
            old = {path.name: path for path in self._older(self.root / f"{part:02x}", before)}
            unneeded = old.keys() - needed(list(old))
            return sum(self._discard(old[key], before) for key in unneeded)
        except OSError as error:
            raise ImageStoreError(f"cannot clean the image store {self.root}: {error.strerror}") from error

    def _older(self, folder: Path, before: float) -> Iterator[Path]:
        with suppress(FileNotFoundError), os.scandir(folder) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):
                    if entry.stat().st_mtime < before:
                        yield folder / entry.name

    def _discard(self, path: Path, before: float) -> bool:
        # A submission may have freshened the image since it was listed. After the rename it cannot any
        # more: it stores the image anew. So what is fresh now goes back, and nothing accepted is lost.
        draft = self.root / "tmp" / uuid4().hex
        draft.parent.mkdir(exist_ok=True)
        path.rename(draft)
        is_old = draft.stat().st_mtime < before
        if not is_old:
            with suppress(FileExistsError):
                path.hardlink_to(draft)
        draft.unlink()
        return is_old


class FileStaging:
    """Files in ``<root>/tmp`` that ``publish`` renames to their keys."""

    def __init__(self, store: FileImageStore) -> None:
        self._store = store
        self._drafts: dict[str, Path | None] = {}  # None: the store had it already

    def add(self, data: bytes) -> str:
        """Take an image in and return its key."""
        key = hashlib.sha256(data).hexdigest()
        if key in self._drafts:
            return key
        try:
            self._drafts[key] = None if self._is_stored(key, data) else self._write(data)
        except OSError as error:
            raise _store_error(self._store.root, error) from error
        return key

    def _is_stored(self, key: str, data: bytes) -> bool:
        # By its bytes, not its size: after a power cut a file may have its length but not its content.
        path = self._store.path(key)
        try:
            return path.stat().st_size == len(data) and path.read_bytes() == data
        except FileNotFoundError:
            return False

    def _write(self, data: bytes) -> Path:
        draft = self._store.root / "tmp" / uuid4().hex
        try:
            draft.write_bytes(data)
        except FileNotFoundError:
            draft.parent.mkdir(parents=True, exist_ok=True)
            draft.write_bytes(data)
        except OSError:
            draft.unlink(missing_ok=True)
            raise
        return draft

    def publish(self) -> None:
        """Publish this staging alone: see :meth:`FileImageStore.publish`."""
        self._store.publish([self])

    def move(self) -> list[Path]:
        """Rename every draft to its key; return where all images lie. Not durable yet."""
        for key, draft in self._drafts.items():
            if draft is not None:
                self._rename(draft, self._store.path(key))
                self._drafts[key] = None
        return [self._store.path(key) for key in self._drafts]

    def _rename(self, draft: Path, path: Path) -> None:
        try:
            draft.rename(path)
        except FileNotFoundError:
            path.parent.mkdir(exist_ok=True)
            draft.rename(path)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for draft in self._drafts.values():
            if draft is not None:
                draft.unlink(missing_ok=True)
        self._drafts.clear()


def _store_error(root: Path, error: OSError) -> ImageStoreError:
    return ImageStoreError(
        f"the image store {root} took nothing: {error.strerror or error}; free space or check its permissions"
    )


def _sync(root: Path, paths: list[Path]) -> None:
    """Force ``paths`` and their folder entries to disk.

    Linux's syncfs(2) does it in one call: 0.3 ms for one file of 56 kB and 32 ms for 1,000, where an
    fsync each took 0.4 and 214 ms (ext4). Elsewhere each file and folder is synced.
    """
    syncfs = getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None)
    targets = [root] if syncfs else [*paths, *{path.parent for path in paths}, root]
    for target in targets:
        descriptor = os.open(target, os.O_RDONLY)
        try:
            if syncfs is None:
                os.fsync(descriptor)
            elif syncfs(descriptor) != 0:
                code = ctypes.get_errno()
                raise OSError(code, os.strerror(code))
        finally:
            os.close(descriptor)
