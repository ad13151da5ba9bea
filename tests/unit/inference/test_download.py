"""A pull brings exactly the promised file, or fails soon with one clear line."""

from __future__ import annotations

import hashlib
import io
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

from alexq_schema.errors import ModelDownloadError, ModelError, UsageError
from alexq_schema.models import ModelStore
from alexq_worker.inference import download
from alexq_worker.inference.versions import pull
from tests.unit.inference.test_versions import Bomb

pytestmark = pytest.mark.usefixtures("tiny_alexnet")


class Mirror:
    """A web server on loopback. ``files`` maps paths to bodies, ``promised`` to other lengths.

    Where more is promised than there is, the connection stays open, silent, until ``hang_up`` is set.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.promised: dict[str, int] = {}
        self.hang_up = threading.Event()
        self.hang_up.set()
        self.downloads = 0
        mirror = self

        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                self._head()

            def do_GET(self) -> None:
                mirror.downloads += 1
                self.wfile.write(self._head())
                self.wfile.flush()
                mirror.hang_up.wait(10)

            def _head(self) -> bytes:
                body = mirror.files.get(self.path)
                self.send_response(404 if body is None else 200)
                self.send_header("Content-Length", str(mirror.promised.get(self.path, len(body or b""))))
                self.end_headers()
                return body or b""

            def log_message(self, *args: object) -> None:
                pass

        self.server: HTTPServer = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def serve(self, value: object, sha256: str | None = None) -> str:
        """Serve ``torch.save(value)`` under a name with its hash, or with ``sha256``; return the URL."""
        file = io.BytesIO()
        torch.save(value, file)
        name = f"/models/tiny-{(sha256 or hashlib.sha256(file.getvalue()).hexdigest())[:8]}.pth"
        self.files[name] = file.getvalue()
        return self.url + name


@pytest.fixture
def mirror(monkeypatch) -> Iterator[Mirror]:
    monkeypatch.setenv("no_proxy", "*")
    mirror = Mirror()
    thread = threading.Thread(target=mirror.server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield mirror
    mirror.server.shutdown()
    mirror.server.server_close()
    thread.join()


@pytest.fixture
def own(tmp_path) -> ModelStore:
    return ModelStore(tmp_path / "models")


@pytest.fixture(autouse=True)
def downloads_folder(tmp_path, monkeypatch) -> Iterator[Path]:
    """The folder for temporary files, where a pull must leave nothing behind."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    yield folder
    assert list(folder.glob("alexq-*")) == []


def test_a_pull_converts_the_file_and_the_next_one_downloads_nothing(mirror, own, tiny_state, capsys):
    url = mirror.serve(tiny_state(1000))
    timeout = socket.getdefaulttimeout()
    version = pull(own, url=url, progress=False)
    assert version.info.ref == "alexnet/imagenet1k-v1"
    assert version.info.trained
    assert version.info.source == url
    assert version.read_labels()[817] == "sports car"
    version.verify_weights()
    assert pull(own, url=url, progress=False) == version
    assert mirror.downloads == 1
    assert socket.getdefaulttimeout() == timeout
    assert capsys.readouterr() == ("", "")


def test_a_damaged_version_is_pulled_again(mirror, own, tiny_state):
    url = mirror.serve(tiny_state(1000))
    version = pull(own, url=url, progress=False)
    with version.weights_path.open("r+b") as file:
        file.truncate(1000)
    pull(own, url=url, progress=False).verify_weights()
    assert mirror.downloads == 2


def test_another_file_than_promised_is_refused(mirror, own, tiny_state):
    with pytest.raises(ModelDownloadError, match=r"127\.0\.0\.1 .*SHA-256 differs"):
        pull(own, url=mirror.serve(tiny_state(1000), sha256="0123456789"), progress=False)
    assert own.refs() == []


def test_a_download_cut_short_is_refused(mirror, own, tiny_state):
    url = mirror.serve(tiny_state(1000))
    path = url.removeprefix(mirror.url)
    mirror.promised[path] = len(mirror.files[path])
    mirror.files[path] = mirror.files[path][:1000]
    with pytest.raises(ModelDownloadError, match=r"cut short|broke off"):
        pull(own, url=url, progress=False)
    assert own.refs() == []


def test_a_server_that_falls_silent_in_the_middle_does_not_hold_a_pull(mirror, own, tiny_state, monkeypatch):
    monkeypatch.setattr(download, "SILENCE_S", 2.0)
    url = mirror.serve(tiny_state(1000))
    path = url.removeprefix(mirror.url)
    mirror.promised[path] = len(mirror.files[path]) + 1
    mirror.hang_up.clear()
    try:
        with pytest.raises(ModelDownloadError, match=r"broke off \(timed out\)"):
            pull(own, url=url, progress=False)
    finally:
        mirror.hang_up.set()


def test_an_http_error_names_host_and_status(mirror, own):
    with pytest.raises(
        ModelDownloadError, match=r"127\.0\.0\.1 answered 404 .*alexq models import"
    ) as caught:
        pull(own, url=mirror.url + "/alexnet-01234567.pth", progress=False)
    assert "\n" not in caught.value.detail
    assert caught.value.is_retryable


def test_no_server_fails_at_once(own, monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    with pytest.raises(ModelDownloadError, match=r"cannot reach 127\.0\.0\.1 \(Connection refused\)"):
        pull(own, url=f"http://127.0.0.1:{port}/alexnet-01234567.pth", progress=False)


@pytest.mark.parametrize(("silence_s", "connect_s"), [(0.2, 600.0), (600.0, 0.2)])
def test_a_silent_server_does_not_hold_a_pull(silence_s, connect_s, own, monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(download, "SILENCE_S", silence_s)
    monkeypatch.setattr(download, "CONNECT_S", connect_s)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/alexnet-01234567.pth"
        with pytest.raises(ModelDownloadError, match=r"127\.0\.0\.1.*(timed out|did not answer)"):
            pull(own, url=url, progress=False)


def test_weights_of_another_network_are_refused(mirror, own, tiny_state):
    with pytest.raises(ModelDownloadError, match="10 outputs"):
        pull(own, url=mirror.serve(tiny_state(10)), progress=False)
    with pytest.raises(ModelDownloadError, match="not fit"):
        pull(own, url=mirror.serve({"head.bias": torch.zeros(1000)}), progress=False)


def test_a_downloaded_pickle_is_never_run(mirror, own, tmp_path):
    with pytest.raises(ModelDownloadError, match="not a file of weights"):
        pull(own, url=mirror.serve({"head.bias": Bomb(tmp_path / "touched")}), progress=False)
    assert not (tmp_path / "touched").exists()


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:9/alexnet.pth", "file:///etc/passwd-01234567.pth", "nonsense"]
)
def test_an_address_that_makes_no_sense_is_a_usage_error(url, own):
    with pytest.raises(UsageError):
        pull(own, url=url, progress=False)


def test_a_models_folder_that_cannot_be_written_is_not_a_download_error(mirror, tmp_path, tiny_state):
    (tmp_path / "models").write_text("a file where the folder should be")
    with pytest.raises(ModelError, match="cannot write") as caught:
        pull(ModelStore(tmp_path / "models"), url=mirror.serve(tiny_state(1000)), progress=False)
    assert not isinstance(caught.value, ModelDownloadError)
