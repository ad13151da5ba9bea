"""What only a store on S3 can do wrong: requests, refusals, a package that is not there."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest

from alexq import doctor
from alexq_producer import Producer
from alexq_schema.errors import ImageNotFoundError, ImageStoreError, SettingsError
from alexq_schema.images import ABANDONED_AFTER_S, ImageStore, locks, open_image_store
from alexq_schema.images.locks import STALE_AFTER_S, Lock
from alexq_schema.images.objects import ObjectImageStore
from alexq_schema.job import JobState
from alexq_schema.models import ModelStore
from alexq_schema.settings import Settings
from alexq_schema.work import Claim, PredictionWriter, Succeeded
from alexq_worker.isolation.messages import Setup
from alexq_worker.isolation.parent import IsolatedEngine
from tests.helpers.outside import response, serving
from tests.helpers.photos import encode, photo_crops
from tests.helpers.processes import WorkerProcess
from tests.helpers.s3 import CREDENTIALS, S3Server

JPEG = b"\xff\xd8\xff" + b"x" * 100
KEY = "a" * 64
REFUSAL = b"<Error><Code>InvalidAccessKeyId</Code><Message>not in our records</Message></Error>"


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Credentials, and no server yet."""
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    return monkeypatch


def put(store: ImageStore, data: bytes) -> str:
    with store.staging() as staging:
        key = staging.add(data)
        staging.publish()
    return key


def test_a_new_image_is_one_request_and_a_young_one_is_not_written_again(s3: S3Server) -> None:
    store = open_image_store(f"s3://{s3.bucket()}")
    s3.hold(0)

    put(store, JPEG)
    assert s3.seen() == {"PUT": 1, "reads_at_once": 0}
    put(store, JPEG)
    assert s3.seen() == {"PUT": 2, "HEAD": 1, "reads_at_once": 0}  # the second was refused: it is there


def test_a_lock_is_waited_for_and_taken_over_when_its_holder_is_long_dead(
    s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket = s3.bucket()
    store = ObjectImageStore(f"s3://{bucket}")
    key = put(store, JPEG)
    s3.age(bucket, f"{key[:2]}/{key}", ABANDONED_AFTER_S + 60)
    left_behind = Lock(store.objects, store.objects, key)
    left_behind.__enter__()

    monkeypatch.setattr(locks, "WAIT_S", 1.0)
    with pytest.raises(ImageStoreError, match=f"{key} is being deleted"):
        put(store, JPEG)
    assert store.get(key) == JPEG

    monkeypatch.setattr(locks, "WAIT_S", 60.0)
    s3.age(bucket, f"locks/{key[:2]}/{key}", STALE_AFTER_S + 60)
    put(store, JPEG)
    assert store.discard_unneeded(int(key[:2], 16), lambda _: set()) == 0
    assert [meta["path"] for page in store.objects.list() for meta in page] == [f"{key[:2]}/{key}"]


def test_locks_left_behind_are_cleaned_away(s3: S3Server) -> None:
    bucket = s3.bucket()
    store = ObjectImageStore(f"s3://{bucket}")
    Lock(store.objects, store.objects, KEY).__enter__()
    s3.age(bucket, f"locks/aa/{KEY}", ABANDONED_AFTER_S + 60)

    store.discard_unneeded(0xAA, lambda _: set())

    assert list(store.objects.list()) == []


@pytest.fixture
def hung() -> Iterator[str]:
    """A server that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def refusals(store: ImageStore) -> Iterator[str]:
    """Yield what each operation of a store that cannot be used says."""
    for ask in (
        lambda: store.get(KEY),
        lambda: put(store, JPEG),
        lambda: store.discard_unneeded(0, lambda _: set()),
        store.check,
    ):
        with pytest.raises(ImageStoreError, match="s3://bucket/folder") as caught:
            ask()
        yield str(caught.value)


def test_a_wrong_bucket_is_named(s3: S3Server) -> None:
    for text in refusals(open_image_store("s3://bucket/folder")):
        assert "no such bucket; create it, or correct ALEXQ_IMAGES_URL" in text


def test_a_server_that_is_not_there_is_named(nowhere: pytest.MonkeyPatch) -> None:
    nowhere.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    for text in refusals(open_image_store("s3://bucket/folder")):
        assert "check AWS_ENDPOINT_URL" in text


def test_a_server_that_hangs_is_not_waited_for(nowhere: pytest.MonkeyPatch, hung: str) -> None:
    nowhere.setenv("AWS_ENDPOINT_URL", hung)
    began = time.monotonic()
    with pytest.raises(ImageStoreError, match="check AWS_ENDPOINT_URL"):
        open_image_store("s3://bucket/folder").get(KEY)
    assert time.monotonic() - began < 120  # eight seconds, on a machine that has nothing else to do


def test_refused_credentials_are_named(nowhere: pytest.MonkeyPatch) -> None:
    with serving(lambda sock, _: sock.sendall(response(REFUSAL, "403 Forbidden"))) as port:
        nowhere.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
        for text in refusals(open_image_store("s3://bucket/folder")):
            assert "refuses these credentials; check AWS_ACCESS_KEY_ID" in text


def test_missing_credentials_are_named(nowhere: pytest.MonkeyPatch) -> None:
    for name in CREDENTIALS:
        nowhere.delenv(name)
    with serving(lambda sock, _: sock.sendall(response(b"", "404 Not Found"))) as port:
        nowhere.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
        nowhere.setenv("AWS_METADATA_ENDPOINT", f"http://127.0.0.1:{port}")
        for text in refusals(open_image_store("s3://bucket/folder")):
            assert "no credentials; set AWS_ACCESS_KEY_ID" in text


def test_half_of_the_credentials_is_a_wrong_setting(nowhere: pytest.MonkeyPatch) -> None:
    nowhere.delenv("AWS_ACCESS_KEY_ID")
    with pytest.raises(SettingsError, match="AccessKeyId"):
        open_image_store("s3://bucket/folder")


def test_a_404_that_is_not_the_stores_is_no_lost_image(nowhere: pytest.MonkeyPatch) -> None:
    with serving(lambda sock, _: sock.sendall(response(b"no route", "404 Not Found"))) as port:
        nowhere.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
        with pytest.raises(ImageStoreError, match="check AWS_ENDPOINT_URL"):
            open_image_store("s3://bucket/folder").get(KEY)


def test_doctor_writes_to_the_store_and_says_what_is_wrong_with_it(s3: S3Server) -> None:
    right = Settings.load(images_url=f"s3://{s3.bucket()}/images")
    wrong = right.model_copy(update={"images_url": "s3://bucket/images"})

    assert doctor.bounded("image store", doctor.check_image_store, right, 100).ok
    check = doctor.bounded("image store", doctor.check_image_store, wrong, 100)

    assert not check.ok
    assert "no such bucket" in check.found


def test_only_a_store_on_s3_needs_obstore() -> None:
    code = """
import sys
sys.modules["obstore"] = None  # as if it were not installed
from alexq_schema.images import open_image_store
open_image_store("file:///nowhere")
open_image_store("s3://bucket/folder")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=200)
    assert (
        "SettingsError: ALEXQ_IMAGES_URL='s3://bucket/folder' needs obstore: pip install \"alexq[s3]\""
        in done.stderr
    )


def test_an_image_that_is_not_there_is_told_from_a_store_that_is_not(s3: S3Server) -> None:
    with pytest.raises(ImageNotFoundError):
        open_image_store(f"s3://{s3.bucket()}").get(KEY)


def test_a_worker_reads_many_images_at_once_from_a_slow_store_with_two_decode_threads(
    s3: S3Server, settings: Settings, start_worker: Callable[..., WorkerProcess]
) -> None:
    settings = settings.model_copy(update={"images_url": f"s3://{s3.bucket()}/images"})
    s3.hold(16)  # nothing is answered before so many ask
    with Producer(settings) as producer:
        submitted = producer.submit([photo(number) for number in range(48)])
        assert s3.seen()["PUT"] == 48
        start_worker(images_url=settings.images_url, decode_threads=2, fetch_threads=16)
        jobs = submitted.wait(200)

    assert {(job.state, job.attempt) for job in jobs} == {(JobState.SUCCEEDED, 1)}
    assert s3.seen() == {"PUT": 48, "GET": 48, "reads_at_once": 16}


def test_a_suspect_runs_alone_on_an_image_from_the_store(s3: S3Server, models_dir: Path) -> None:
    url = f"s3://{s3.bucket()}/images"
    key = put(open_image_store(url), photo(0))
    version = ModelStore(models_dir).resolve()
    setup = Setup(
        images_url=url,
        models_dir=models_dir,
        model=version.info.ref,
        device="cpu",
        precision="fp32",
        max_image_pixels=50_000_000,
        memory_bytes=64 * 2**20,  # the least that settings allow: the client's threads fit in too
    )
    served: Any = SimpleNamespace(
        ref=version.info.ref, model_id=1, predictions=PredictionWriter(version.read_labels())
    )
    isolated = IsolatedEngine(setup)
    try:
        outcome = isolated.classify(
            Claim(uuid4(), 2, uuid4(), "classify", "photo.jpg", key, crashes=1), served
        )
    finally:
        isolated.stop()

    assert isinstance(outcome, Succeeded)


def photo(number: int) -> bytes:
    return encode(photo_crops(1)[0].resize((300 + number, 300)), "JPEG")
