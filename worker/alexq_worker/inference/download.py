"""Fetch pretrained weights through torchvision's own loader, bounded in time and checked."""

from __future__ import annotations

import contextlib
import http.client
import io
import pickle
import re
import socket
import tempfile
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from urllib.parse import urlsplit

import torch.hub
from torch import Tensor

from alexq_schema.errors import ModelDownloadError, UsageError

SILENCE_S = 10.0
"""How long the server may say nothing, while connecting or in the middle of the file."""
CONNECT_S = 20.0
"""How long name lookup, connecting (to all its addresses) and the first answer may take together."""

_HASHED_NAME = re.compile(r"-[0-9a-f]{8,64}\.pth$")
_WAY_OUT = "check the network, name a mirror with `alexq models pull --url`, or use `alexq models import`"


def fetch_state_dict(url: str, *, progress: bool) -> dict[str, Tensor]:
    """Return the state dict at ``url``, whose file name carries its hash: ``name-<8+ hex digits>.pth``.

    The file goes through a temporary folder and leaves nothing behind. Its SHA-256 must begin with
    the digits in the name, and only tensors are unpickled.

    Raises:
        UsageError: ``url`` is not HTTP(S) or its file name carries no hash.
        ModelDownloadError: no network, an HTTP error, silence, or another file than promised.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError(f"{url!r} is not an http:// or https:// address")
    if not _HASHED_NAME.search(parts.path):
        raise UsageError(
            f"{url!r} must end in the file's name with its hash, as alexnet-owt-7be5be79.pth does"
        )
    host = parts.hostname
    _check_answers(url, host)
    try:
        with (
            tempfile.TemporaryDirectory(prefix="alexq-download-") as folder,
            contextlib.redirect_stdout(io.StringIO()),  # torch.hub announces the download on stdout
            _socket_timeout(SILENCE_S),
        ):
            state: dict[str, Tensor] = torch.hub.load_state_dict_from_url(
                url, folder, map_location="cpu", progress=progress, check_hash=True, weights_only=True
            )
            return state
    except urllib.error.HTTPError as error:
        error.close()
        raise ModelDownloadError(
            f"{host} answered {error.code} {error.reason} for {url}: {_WAY_OUT}"
        ) from error
    except (OSError, http.client.HTTPException) as error:
        raise ModelDownloadError(
            f"the download from {host} broke off ({_reason(error)}): {_WAY_OUT}"
        ) from error
    except (RuntimeError, ValueError, EOFError, pickle.UnpicklingError) as error:
        if "invalid hash value" in str(error):
            raise ModelDownloadError(
                f"what {host} sent is not the file that {url} promises (its SHA-256 differs): "
                f"the download was cut short or altered; try again, or {_WAY_OUT}"
            ) from error
        raise ModelDownloadError(
            f"what {host} sent for {url} is not a file of weights: {_WAY_OUT}"
        ) from error


def _check_answers(url: str, host: str) -> None:
    """Ask for the file's head, in a thread that is abandoned when it takes too long.

    A socket's timeout bounds one connection attempt; it does not bound the name lookup, nor a host of
    many silent addresses. Any HTTP answer counts: the download itself reports a refusal.
    """
    failures: list[Exception] = []

    def ask() -> None:
        request = urllib.request.Request(url, method="HEAD")  # noqa: S310 (the scheme was checked)
        try:
            with urllib.request.urlopen(request, timeout=SILENCE_S):  # noqa: S310
                pass
        except urllib.error.HTTPError as answer:
            answer.close()
        except (OSError, http.client.HTTPException, ValueError) as error:
            failures.append(error)

    thread = threading.Thread(target=ask, name="alexq-download-probe", daemon=True)
    thread.start()
    thread.join(CONNECT_S)
    if thread.is_alive():
        raise ModelDownloadError(f"{host} did not answer within {CONNECT_S:g} s: {_WAY_OUT}")
    if failures:
        raise ModelDownloadError(f"cannot reach {host} ({_reason(failures[0])}): {_WAY_OUT}") from failures[0]


def _reason(error: Exception) -> str:
    """Return the cause in one line, without urllib's wrapping."""
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    text = (cause.strerror if isinstance(cause, OSError) else None) or str(cause)
    return " ".join(text.split()) or type(error).__name__


@contextlib.contextmanager
def _socket_timeout(seconds: float) -> Iterator[None]:
    """Set the default timeout of new sockets: torch.hub gives no other way to bound its reads."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
