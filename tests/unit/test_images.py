"""The image store keeps what it accepted, once, and nothing else."""

from __future__ import annotations

import errno
import hashlib
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from alexq_schema.errors import (
    ImageEmptyError,
    ImageLostError,
    ImageNotFoundError,
    ImageStoreError,
    ImageTooLargeError,
    ImageTypeError,
    SettingsError,
)
from alexq_schema.images import ABANDONED_AFTER_S, PARTS, FileImageStore, check_image, open_image_store
from alexq_schema.images import files as files_of_store

JPEG = b"\xff\xd8\xff" + b"x" * 100


@pytest.fixture
def store(tmp_path: Path) -> FileImageStore:
    return FileImageStore(tmp_path / "images")


def files(store: FileImageStore) -> list[Path]:
    return [path for path in store.root.rglob("*") if path.is_file()]


def test_a_published_image_comes_back_by_its_hash(store: FileImageStore) -> None:
    with store.staging() as staging:
        key = staging.add(JPEG)
        staging.publish()

    assert key == hashlib.sha256(JPEG).hexdigest()
    assert store.get(key) == JPEG


def test_the_same_image_is_stored_once(store: FileImageStore) -> None:
    for _ in range(2):
        with store.staging() as staging:
            assert staging.add(JPEG) == staging.add(JPEG)
            staging.publish()

    assert len(files(store)) == 1


def test_what_is_not_published_leaves_nothing(store: FileImageStore) -> None:
    with store.staging() as staging:
        key = staging.add(JPEG)

    assert files(store) == []
    with pytest.raises(ImageNotFoundError):
        store.get(key)


def test_a_damaged_image_is_noticed_and_healed_by_the_next_submission(store: FileImageStore) -> None:
    with store.staging() as staging:
        key = staging.add(JPEG)
        staging.publish()
    store.path(key).write_bytes(b"\0" * len(JPEG))  # its length, not its content: a power cut
    with pytest.raises(ImageLostError, match=key):
        store.get(key)

    with store.staging() as staging:
        staging.add(JPEG)
        staging.publish()

    assert store.get(key) == JPEG


def test_a_store_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "images").write_bytes(b"a file where the folder should be")

    with (
        FileImageStore(tmp_path / "images").staging() as staging,
        pytest.raises(ImageStoreError, match="images"),
    ):
        staging.add(JPEG)


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"", ImageEmptyError),
        (b"\xff\xd8\xff" + b"x" * 200, ImageTooLargeError),
        (b"hello, world", ImageTypeError),
        (b"RIFF\0\0\0\0WAVEfmt ", ImageTypeError),
        (b"%PDF-1.7", ImageTypeError),
    ],
)
def test_a_refused_image_is_named(data: bytes, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"holiday\.jpg"):
        check_image(data, "holiday.jpg", max_bytes=150)


@pytest.mark.parametrize("url", ["ftp://host/x", "s3://", "file://relative", "/no/scheme", ""])
def test_a_store_of_unknown_kind_is_refused(url: str) -> None:
    with pytest.raises(SettingsError, match="ALEXQ_IMAGES_URL"):
        open_image_store(url)


def put(store: FileImageStore, data: bytes) -> str:
    with store.staging() as staging:
        key = staging.add(data)
        staging.publish()
    return key


def age(path: Path, seconds: float = ABANDONED_AFTER_S + 60) -> None:
    then = time.time() - seconds
    os.utime(path, (then, then))


def discard_all(store: FileImageStore, needed: Callable[[Sequence[str]], set[str]]) -> int:
    return sum(store.discard_unneeded(part, needed) for part in range(PARTS))


def test_only_old_images_that_no_job_needs_are_deleted(store: FileImageStore) -> None:
    wanted, unwanted, young = (put(store, JPEG + tail) for tail in (b"1", b"2", b"3"))
    age(store.path(wanted))
    age(store.path(unwanted))
    draft = store.root / "tmp" / "left-by-a-killed-process"
    draft.touch()
    age(draft)
    (store.root / "tmp" / "in-the-making").touch()

    assert discard_all(store, lambda keys: {wanted} & set(keys)) == 1

    assert {file.name for file in files(store)} == {wanted, young, "in-the-making"}
    assert discard_all(FileImageStore(store.root / "nothing here"), lambda keys: set()) == 0


def test_an_image_that_is_submitted_again_becomes_young(store: FileImageStore) -> None:
    key = put(store, JPEG)
    age(store.path(key))
    put(store, JPEG)

    assert discard_all(store, lambda keys: set()) == 0
    assert store.get(key) == JPEG


def test_an_image_submitted_again_while_it_is_being_deleted_stays(store: FileImageStore) -> None:
    key = put(store, JPEG)
    age(store.path(key))

    def none_needed(keys: Sequence[str]) -> set[str]:
        if keys:
            put(store, JPEG)  # after the listing, before the deletion
        return set()

    assert discard_all(store, none_needed) == 0
    assert store.get(key) == JPEG
    assert [file.name for file in files(store)] == [key]


_watchers: list[tuple[int, Counter[str]]] = []


def _tell_watchers(event: str, _: object) -> None:
    if event == "open" or event.startswith("os."):
        for thread, seen in _watchers:
            if thread == threading.get_ident():
                seen[event] += 1


sys.addaudithook(_tell_watchers)  # for good: there is no way to take it back


@contextmanager
def calls() -> Iterator[Counter[str]]:
    """Count what this thread asks of the file system meanwhile, by the name of the audit event."""
    seen: Counter[str] = Counter()
    watcher = threading.get_ident(), seen
    _watchers.append(watcher)
    try:
        yield seen
    finally:
        _watchers.remove(watcher)


def test_an_image_costs_the_file_system_the_same_few_calls_however_many_there_are(
    store: FileImageStore,
) -> None:
    images = [JPEG + number.to_bytes(2, "big") for number in range(300)]
    for folder in ("tmp", *(f"{part:02x}" for part in range(PARTS))):  # each is made once, when it lacks
        (store.root / folder).mkdir(parents=True)

    with calls() as new, store.staging() as staging:
        for data in images:
            staging.add(data)
        staging.publish()
    with calls() as again, store.staging() as staging:
        for data in images:
            staging.add(data)
        staging.publish()

    assert new == {"open": 2 * 300 + 1, "os.rename": 300}  # looked up, written; + 1: the sync
    assert again == {"open": 300 + 1, "os.utime": 300}


@pytest.mark.parametrize("has_syncfs", [True, False])
def test_everything_is_synced_at_once_or_each_file_and_folder_after_the_renames(
    store: FileImageStore, monkeypatch: pytest.MonkeyPatch, has_syncfs: bool
) -> None:
    synced: list[Path] = []

    def note(descriptor: int) -> int:
        synced.append(Path(f"/proc/self/fd/{descriptor}").readlink())
        return 0

    monkeypatch.setattr(files_of_store, "_syncfs", note if has_syncfs else None)
    monkeypatch.setattr(os, "fsync", note)
    keys = {put(store, JPEG)}
    synced.clear()
    with store.staging() as one, store.staging() as other:
        keys |= {one.add(JPEG), one.add(JPEG + b"1"), other.add(JPEG + b"2"), other.add(JPEG + b"1")}
        store.publish([one, other])

    places = {store.path(key) for key in keys}
    each = [*sorted(places | {path.parent for path in places}), store.root]
    assert sorted(synced[:-1]) + synced[-1:] == ([store.root] if has_syncfs else each)


def test_a_disk_that_fills_up_half_way_through_an_image_is_told_and_leaves_nothing(
    store: FileImageStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(store, JPEG)
    write = os.write

    def write_a_little(file: int, data: bytes) -> int:
        if os.fstat(file).st_size > 50:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(file, data[:40])

    monkeypatch.setattr(os, "write", write_a_little)
    with store.staging() as staging:
        assert staging.add(JPEG[:70])  # in two goes
        with pytest.raises(ImageStoreError, match="No space left"):
            staging.add(JPEG + b"more")
        assert len(files(store)) == 2
        staging.publish()

    assert store.get(hashlib.sha256(JPEG[:70]).hexdigest()) == JPEG[:70]
    assert {file.parent.name for file in files(store)}.isdisjoint({"tmp"})


def test_an_image_that_went_between_staging_and_publishing_is_not_accepted(store: FileImageStore) -> None:
    key = put(store, JPEG)

    with store.staging() as staging:
        staging.add(JPEG)
        store.path(key).unlink()
        with pytest.raises(ImageStoreError):
            staging.publish()
