"""A worker whose image store cannot be used says so and ends, before it takes any job."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from alexq_schema.errors import ImageStoreError
from alexq_schema.images import open_image_store
from alexq_schema.settings import Settings
from alexq_worker.store_check import require_usable
from tests.helpers.processes import WorkerProcess
from tests.helpers.s3 import S3Server


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """Nothing here depends on the kind of database."""
    return sqlite_url


@pytest.fixture
def occupied(tmp_path: Path) -> str:
    """The URL of a folder that cannot be made: a file is in its place."""
    (tmp_path / "taken").write_bytes(b"")
    return (tmp_path / "taken" / "images").as_uri()


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch, s3: S3Server) -> Iterator[str]:
    """The URL of a store that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{listener.getsockname()[1]}")
        yield "s3://bucket/folder"


def test_a_worker_ends_where_its_store_takes_nothing(
    settings: Settings, occupied: str, tmp_path: Path
) -> None:
    settings = settings.model_copy(update={"images_url": occupied})
    worker = WorkerProcess(settings, tmp_path / "worker.log", sys.executable)

    assert worker.process.wait(150) == 3
    said = (tmp_path / "worker.log").read_text()
    assert f"ALEXQ_IMAGES_URL={occupied}: the image store" in said
    assert "check its permissions" in said


def test_a_store_that_says_nothing_is_not_waited_for(silent: str) -> None:
    with pytest.raises(
        ImageStoreError, match=r"ALEXQ_IMAGES_URL=s3://bucket/folder: no answer within 0\.5 s"
    ):
        require_usable(open_image_store(silent), silent, within_s=0.5)


def test_a_bucket_that_is_not_there_is_named(s3: S3Server) -> None:
    with pytest.raises(ImageStoreError, match=r"ALEXQ_IMAGES_URL=s3://nowhere/x: .*no such bucket"):
        require_usable(open_image_store("s3://nowhere/x"), "s3://nowhere/x", within_s=60)


def test_a_store_that_works_passes_and_nothing_stays(tmp_path: Path) -> None:
    url = (tmp_path / "images").as_uri()
    require_usable(open_image_store(url), url)
    assert not [path for path in (tmp_path / "images").rglob("*") if path.is_file()]
