"""The image store on S3 and its like: ``<prefix>/ab/abcdef…``, one request to store an image, one to read it.

Until it is prepared, a staging lies in a temporary file without a name, so a process that is killed leaves
nothing. Then its images go out, many at once, straight under their keys: an object appears whole or not at
all, and nobody asks for a key before a job names it. What no job ever names is discarded after a day.

An image is created only if it is absent, in the same request; one that is there already and young stays as
it is. Writing an old one again, which makes it young, and deleting it exclude each other, or what was just
submitted again could be deleted: S3 can delete no object on condition of its age. So both hold the key's
lock, an object that can be created once (:mod:`alexq_schema.images.locks`).
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from datetime import timedelta
from types import TracebackType
from typing import TYPE_CHECKING, BinaryIO, Self, TypeVar
from uuid import uuid4

from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import from_url

from alexq_schema.errors import ImageLostError, ImageNotFoundError, ImageStoreError, SettingsError
from alexq_schema.images.locks import Lock
from alexq_schema.images.object_errors import is_absent, store_error
from alexq_schema.images.store import ABANDONED_AFTER_S, Staging

if TYPE_CHECKING:
    from obstore import ObjectMeta
    from obstore.store import ClientConfig, RetryConfig

AT_ONCE = 32
"""Requests of one process at once, where it stores or deletes."""
BYTES_AT_ONCE = 64 * 2**20
"""Bytes of images on their way out of one staging at once, above one image."""
SPOOL_BYTES = 2**20
"""A staging of more is kept in a temporary file, not in memory."""
RENEW_AFTER_S = ABANDONED_AFTER_S / 2
"""Age from which an image that is stored again is written again: half a day to insert its rows."""

_CLIENT: ClientConfig = {"connect_timeout": timedelta(seconds=2), "timeout": timedelta(seconds=8)}
_RETRY: RetryConfig = {  # with the timeouts: whatever is wrong with a store shows within 10 s
    "max_retries": 3,
    "retry_timeout": timedelta(seconds=4),
    "backoff": {
        "init_backoff": timedelta(milliseconds=100),
        "max_backoff": timedelta(seconds=1),
        "base": 2,
    },
}
_MD5_DIGITS = 32

T = TypeVar("T")


class ObjectImageStore:
    """Images as objects below a URL's prefix; credentials come from the environment, as obstore reads it."""

    is_remote = True

    def __init__(self, url: str, clock: Callable[[], float] = time.time) -> None:
        """Prepare; nothing is asked of the store.

        Args:
            url: ``s3://bucket/prefix``, ``gs://…`` or ``az://…``.
            clock: seconds since 1970, which ages of images are measured by.

        Raises:
            SettingsError: the URL, or a variable of the environment, makes no sense to obstore.
        """
        self.url = url
        self._clock = clock
        is_plain = os.environ.get("AWS_ENDPOINT_URL", "").startswith("http://")
        client: ClientConfig = {**_CLIENT, "allow_http": is_plain}
        once: RetryConfig = {**_RETRY, "max_retries": 0}
        try:
            self.objects = from_url(url, client_options=client, retry_config=_RETRY)
            # A delete that is sent again after its answer got lost would take what was stored meanwhile.
            self._once = from_url(url, client_options=client, retry_config=once)
        except (BaseError, ValueError) as error:
            raise SettingsError(f"ALEXQ_IMAGES_URL={url!r}: {str(error).splitlines()[0]}") from error
        self._starting = threading.Lock()
        self._threads: ThreadPoolExecutor | None = None

    def staging(self) -> ObjectStaging:
        """Return a new, empty staging."""
        return ObjectStaging(self)

    def publish(self, stagings: Sequence[Staging]) -> None:
        """Make every image readable under its key: what was not prepared goes out now."""
        for staging in stagings:
            staging.prepare()

    def get(self, key: str) -> bytes:
        """Return an image's bytes, checked against its key (see :class:`ImageStore`)."""
        try:
            data: bytes = self.objects.get(place(key)).bytes().to_bytes()
        except (BaseError, OSError) as error:
            if is_absent(error):
                raise ImageNotFoundError(f"no image {key} in the store {self.url}") from error
            raise store_error(self.url, error) from error
        if hashlib.sha256(data).hexdigest() != key:
            raise ImageLostError(f"image {key} in {self.url} is damaged: its bytes do not hash to its name")
        return data

    def put(self, key: str, data: bytes) -> None:
        """Store an image unless it is there, unharmed and young.

        Raises:
            ImageStoreError: the store does not answer.
        """
        try:
            if not self._create(key, data) and not self._is_fresh(key, data):
                with Lock(self.objects, self._once, key, self._clock):
                    if not self._is_fresh(key, data):  # who held the lock may have renewed it
                        self.objects.put(place(key), data, use_multipart=False)
        except (BaseError, OSError) as error:
            raise store_error(self.url, error) from error

    def _create(self, key: str, data: bytes) -> bool:
        try:
            self.objects.put(place(key), data, mode="create", use_multipart=False)
        except AlreadyExistsError:
            return False
        return True

    def _is_fresh(self, key: str, data: bytes) -> bool:
        meta = self._head(key)
        if meta is None or meta["size"] != len(data) or self._age_s(meta) > RENEW_AFTER_S:
            return False
        tag = (meta["e_tag"] or "").strip('"')
        # Elsewhere than on S3, and for some kinds of encryption there, a tag says nothing of the content.
        return len(tag) != _MD5_DIGITS or tag == hashlib.md5(data, usedforsecurity=False).hexdigest()

    def _head(self, key: str) -> ObjectMeta | None:
        try:
            meta: ObjectMeta = self.objects.head(place(key))
        except FileNotFoundError:
            return None
        return meta

    def _age_s(self, meta: ObjectMeta) -> float:
        return self._clock() - meta["last_modified"].timestamp()

    def check(self) -> None:
        """Write an object beside the images, read it and delete it."""
        name = f"checks/{uuid4()}"
        try:
            self.objects.put(name, b"alexq doctor", mode="create", use_multipart=False)
            self.objects.get(name).bytes()
            self.objects.delete(name)
        except (BaseError, OSError) as error:
            raise store_error(self.url, error) from error

    def discard_unneeded(self, part: int, needed: Callable[[Sequence[str]], set[str]]) -> int:
        """Delete the images of one part that no job needs (see :class:`ImageStore`)."""
        deleted = 0
        try:
            for page in self.objects.list(f"{part:02x}/"):
                old = [_name(meta) for meta in page if self._age_s(meta) > ABANDONED_AFTER_S]
                unneeded = set(old) - needed(old) if old else set()
                for was_deleted in self.each(self._discard, unneeded):
                    deleted += was_deleted
            for page in self.objects.list(f"locks/{part:02x}/"):
                for meta in page:
                    if self._age_s(meta) > ABANDONED_AFTER_S:
                        self._once.delete(meta["path"])
        except (BaseError, OSError) as error:
            raise store_error(self.url, error) from error
        return deleted

    def _discard(self, key: str) -> bool:
        with Lock(self.objects, self._once, key, self._clock) as lock:
            meta = self._head(key)
            if meta is None or self._age_s(meta) <= ABANDONED_AFTER_S or not lock.is_sure:
                return False
            self._once.delete(place(key))
        return True

    def each(self, work: Callable[[str], T], keys: Iterable[str]) -> Iterable[T]:
        """Yield what ``work`` returns for each key, many at once; the first error is raised at the end."""
        return self._pool().map(work, keys)

    def start(self, work: Callable[[str, bytes], None], key: str, data: bytes) -> Future[None]:
        """Begin ``work`` in a thread of this store's."""
        return self._pool().submit(work, key, data)

    def _pool(self) -> ThreadPoolExecutor:
        with self._starting:  # a store that only reads has no threads
            if self._threads is None:
                self._threads = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="alexq-images")
            return self._threads


class ObjectStaging:
    """Images in a temporary file, until :meth:`prepare` sends them."""

    def __init__(self, store: ObjectImageStore) -> None:
        self._store = store
        self._spool = tempfile.SpooledTemporaryFile(SPOOL_BYTES)  # noqa: SIM115 - closed on exit
        self._waiting: dict[str, tuple[int, int]] = {}  # from where to where in the file
        self._sent: set[str] = set()

    def add(self, data: bytes) -> str:
        """Take an image in and return its key."""
        key = hashlib.sha256(data).hexdigest()
        if key not in self._waiting and key not in self._sent:
            self._append(key, [data])
        return key

    def add_file(self, file: BinaryIO) -> str:
        """Take in the image that ``file`` holds, a piece at a time, and return its key."""
        file.seek(0)
        key = hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]  # has no readinto
        if key not in self._waiting and key not in self._sent:
            file.seek(0)
            self._append(key, iter(lambda: file.read(2**16), b""))
        return key

    def _append(self, key: str, pieces: Iterable[bytes]) -> None:
        try:
            start = self._spool.seek(0, os.SEEK_END)
            for piece in pieces:
                self._spool.write(piece)
            self._waiting[key] = (start, self._spool.tell())
        except OSError as error:
            raise ImageStoreError(
                f"cannot keep an image in {tempfile.gettempdir()} until it is sent to {self._store.url}: "
                f"{error.strerror or error}; free space there, or name another folder with TMPDIR"
            ) from error

    def prepare(self) -> None:
        """Send what waits, many images at once, few bytes at once."""
        running: dict[Future[None], int] = {}
        try:
            for key, (start, end) in self._waiting.items():
                while running and (
                    len(running) >= AT_ONCE or sum(running.values()) + end - start > BYTES_AT_ONCE
                ):
                    _settle(running)
                self._spool.seek(start)
                data = self._spool.read(end - start)
                running[self._store.start(self._store.put, key, data)] = end - start
            while running:
                _settle(running)
        finally:
            wait(running)  # after an error: nothing of this staging goes out later
        self._sent |= self._waiting.keys()
        self._waiting.clear()

    def publish(self) -> None:
        """Publish this staging alone: see :meth:`ObjectImageStore.publish`."""
        self.prepare()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._spool.close()
        self._waiting.clear()


def place(key: str) -> str:
    """Return where an image lies below the prefix."""
    return f"{key[:2]}/{key}"


def _name(meta: ObjectMeta) -> str:
    return meta["path"].rpartition("/")[2]


def _settle(running: dict[Future[None], int]) -> None:
    """Wait until one is done; raises what it raised."""
    for future in wait(running, return_when=FIRST_COMPLETED).done:
        del running[future]
        future.result()
