"""The image store keeps what it accepted, once, and nothing else."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Sequence
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


@pytest.mark.parametrize("url", ["s3://bucket", "file://relative", "/no/scheme", ""])
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


def test_an_image_that_went_between_staging_and_publishing_is_not_accepted(store: FileImageStore) -> None:
    key = put(store, JPEG)

    with store.staging() as staging:
        staging.add(JPEG)
        store.path(key).unlink()
        with pytest.raises(ImageStoreError):
            staging.publish()
