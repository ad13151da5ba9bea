"""Every image store keeps the same promises: the file system and S3."""

from __future__ import annotations

import hashlib
import io
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

import pytest

from alexq_schema.errors import ImageLostError, ImageNotFoundError
from alexq_schema.images import ABANDONED_AFTER_S, PARTS, FileImageStore, ImageStore, open_image_store
from tests.helpers.s3 import S3Server

JPEG = b"\xff\xd8\xff" + b"x" * 100
KEY = hashlib.sha256(JPEG).hexdigest()


class Kind(Protocol):
    """A store under test, and what only whoever owns it can do."""

    url: str

    @property
    def store(self) -> ImageStore:
        """A store of its own on the same images."""

    def age(self, key: str, by_s: float = ABANDONED_AFTER_S + 60) -> None:
        """Let an image have been stored so much earlier."""

    def damage(self, key: str) -> None:
        """Replace an image's bytes by as many others."""

    def keys(self) -> list[str]:
        """Return everything that lies in the store, by its last name."""


class Files:
    def __init__(self, root: Path) -> None:
        self.root = root
        self.url = root.as_uri()

    @property
    def store(self) -> FileImageStore:
        return FileImageStore(self.root)

    def age(self, key: str, by_s: float = ABANDONED_AFTER_S + 60) -> None:
        path = self.store.path(key)
        then = path.stat().st_mtime - by_s
        os.utime(path, (then, then))

    def damage(self, key: str) -> None:
        path = self.store.path(key)
        path.write_bytes(b"\0" * path.stat().st_size)

    def keys(self) -> list[str]:
        return sorted(path.name for path in self.root.rglob("*") if path.is_file())


class Objects:
    def __init__(self, server: S3Server) -> None:
        self._server = server
        self._bucket = server.bucket()
        self.url = f"s3://{self._bucket}/some/folder"

    @property
    def store(self) -> ImageStore:
        return open_image_store(self.url)

    def age(self, key: str, by_s: float = ABANDONED_AFTER_S + 60) -> None:
        self._server.age(self._bucket, f"some/folder/{key[:2]}/{key}", by_s)

    def damage(self, key: str) -> None:
        place = f"{key[:2]}/{key}"
        self._objects.put(place, b"\0" * self._objects.head(place)["size"])

    def keys(self) -> list[str]:
        return sorted(meta["path"].rpartition("/")[2] for page in self._objects.list() for meta in page)

    @property
    def _objects(self):  # type: ignore[no-untyped-def]
        from alexq_schema.images.objects import ObjectImageStore

        return ObjectImageStore(self.url).objects


@pytest.fixture(params=["files", "s3"])
def kind(request: pytest.FixtureRequest, tmp_path: Path) -> Kind:
    """Each kind of store, empty."""
    if request.param == "files":
        return Files(tmp_path / "images")
    return Objects(request.getfixturevalue("s3"))


@pytest.fixture
def store(kind: Kind) -> ImageStore:
    return kind.store


def put(store: ImageStore, *images: bytes) -> list[str]:
    with store.staging() as staging:
        keys = [staging.add(data) for data in images]
        staging.publish()
    return keys


def discard(
    store: ImageStore, key: str, needed: Callable[[Sequence[str]], set[str]] = lambda _: set()
) -> int:
    return store.discard_unneeded(int(key[:2], 16), needed)


def test_a_published_image_comes_back_by_its_hash(store: ImageStore) -> None:
    assert put(store, JPEG) == [KEY]
    assert store.get(KEY) == JPEG
    with pytest.raises(ImageNotFoundError, match="a" * 64):
        store.get("a" * 64)


def test_an_image_in_a_file_is_stored_like_one_in_memory(store: ImageStore) -> None:
    big = JPEG + bytes(3 * 2**20)  # more than a staging keeps in memory
    with store.staging() as staging:
        keys = [staging.add_file(io.BytesIO(data)) for data in (JPEG, big, JPEG)]
        keys.append(staging.add(big))
        staging.publish()

    assert keys[0] == keys[2] == KEY
    assert keys[1] == keys[3]
    assert store.get(keys[1]) == big
    assert store.get(KEY) == JPEG


def test_many_images_of_many_stagings_are_published_together(store: ImageStore, kind: Kind) -> None:
    images = [JPEG + bytes([number]) for number in range(100)]
    with store.staging() as one, store.staging() as other:
        keys = {data: staging.add(data) for staging in (one, other) for data in images[:60]}
        keys |= {data: other.add(data) for data in images[60:]}
        other.prepare()
        other.prepare()
        store.publish([one, other])

    assert kind.keys() == sorted(keys.values())
    with ThreadPoolExecutor(8) as readers:
        assert list(readers.map(store.get, keys.values())) == list(keys)


def test_what_is_not_published_leaves_nothing(store: ImageStore, kind: Kind) -> None:
    with store.staging() as staging:
        key = staging.add(JPEG)

    assert kind.keys() == []
    with pytest.raises(ImageNotFoundError):
        store.get(key)


def test_an_image_may_be_added_after_the_first_were_published(store: ImageStore) -> None:
    with store.staging() as staging:
        staging.add(JPEG)
        staging.publish()
        later = staging.add(JPEG + b"more")
        assert staging.add(JPEG) == KEY
        staging.publish()

    assert store.get(later) == JPEG + b"more"


def test_a_damaged_image_is_noticed_and_healed_by_the_next_submission(store: ImageStore, kind: Kind) -> None:
    put(store, JPEG)
    kind.damage(KEY)
    with pytest.raises(ImageLostError, match=KEY):
        store.get(KEY)

    put(store, JPEG)

    assert store.get(KEY) == JPEG


def test_only_old_images_that_no_job_needs_are_deleted(store: ImageStore, kind: Kind) -> None:
    wanted, unwanted, young = put(store, *(JPEG + tail for tail in (b"1", b"2", b"3")))
    kind.age(wanted)
    kind.age(unwanted)

    discarded = sum(
        discard(store, key, lambda keys: {wanted} & set(keys)) for key in (wanted, unwanted, young)
    )

    assert discarded == 1
    assert kind.keys() == sorted([wanted, young])


def test_a_part_holds_the_keys_that_begin_with_its_number(store: ImageStore, kind: Kind) -> None:
    put(store, JPEG)
    kind.age(KEY)
    part = int(KEY[:2], 16)

    assert store.discard_unneeded((part + 1) % PARTS, lambda _: set()) == 0
    assert store.discard_unneeded(part, lambda _: set()) == 1


@pytest.mark.parametrize("age_s", [ABANDONED_AFTER_S + 60, ABANDONED_AFTER_S * 0.6])
def test_an_image_that_is_submitted_again_becomes_young(store: ImageStore, kind: Kind, age_s: float) -> None:
    put(store, JPEG)
    kind.age(KEY, age_s)
    put(store, JPEG)
    kind.age(KEY, ABANDONED_AFTER_S * 0.45)

    assert discard(store, KEY) == 0
    assert store.get(KEY) == JPEG


def test_an_image_submitted_again_while_it_is_being_deleted_stays(store: ImageStore, kind: Kind) -> None:
    put(store, JPEG)
    kind.age(KEY)

    def none_needed(keys: Sequence[str]) -> set[str]:
        if keys:
            put(kind.store, JPEG)  # after the listing, before the deletion
        return set()

    assert discard(store, KEY, none_needed) == 0
    assert store.get(KEY) == JPEG
    assert kind.keys() == [KEY]


def test_images_submitted_again_and_deleted_at_the_same_time_are_there_when_accepted(
    store: ImageStore, kind: Kind
) -> None:
    images = [JPEG + bytes([number]) for number in range(40)]
    keys = put(store, *images)
    for key in keys:
        kind.age(key)
    begun = threading.Event()

    def none_needed(_: Sequence[str]) -> set[str]:
        begun.set()
        return set()

    with ThreadPoolExecutor(1) as sweeper:
        sweeping = sweeper.submit(lambda: [discard(store, key, none_needed) for key in keys])
        assert begun.wait(60)
        put(kind.store, *images)
        sweeping.result(150)

    assert [kind.store.get(key) for key in keys] == images
    assert kind.keys() == sorted(keys)


KILLED = """
import signal, sys, os
from alexq_schema.images import open_image_store
store = open_image_store(sys.argv[1])
with store.staging() as staging:
    for number in range(200):
        staging.add(bytes([255, 216, 255, number]) + bytes(20_000))
        if number == 99:
            staging.publish()
            print("published", flush=True)
    print("staged", flush=True)
    sys.stdin.read()
"""


def test_a_process_killed_while_it_stages_leaves_what_it_published_and_nothing_else(kind: Kind) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, kind.url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdin is not None
    with process.stdout, process.stdin:
        assert [process.stdout.readline().strip() for _ in range(2)] == ["published", "staged"]
        process.send_signal(signal.SIGKILL)
        process.wait(60)

    for number in range(200):
        data = bytes([255, 216, 255, number]) + bytes(20_000)
        key = hashlib.sha256(data).hexdigest()
        if number < 100:
            assert kind.store.get(key) == data
        else:
            with pytest.raises(ImageNotFoundError):
                kind.store.get(key)


def test_a_store_that_works_passes_its_check_and_nothing_stays(store: ImageStore, kind: Kind) -> None:
    store.check()
    assert kind.keys() == []
