"""Connections to addresses that were looked up once and checked, with one deadline over all they do.

The look-up and the connection are one step here: nothing connects by name, so a name server that answers
otherwise the next time (DNS rebinding) is not asked a next time.
"""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, NamedTuple

import httpcore2

CONNECT_S: Final = 5.0
"""The most that one address gets to take a connection, where there may be others."""

_TIMEOUT: Final = "the time is up"


class Target(NamedTuple):
    """Where a socket connects: an address, never a name."""

    family: int
    kind: int
    protocol: int
    sockaddr: Any


class Deadline:
    """When an exchange must be over."""

    def __init__(self, timeout_s: float) -> None:
        self._at = time.monotonic() + timeout_s

    def left_s(self) -> float:
        """Return the seconds that are left.

        Raises:
            httpcore2.TimeoutException: there are none.
        """
        left = self._at - time.monotonic()
        if left <= 0:
            raise httpcore2.ReadTimeout(_TIMEOUT)
        return left


class Resolver:
    """Looks names up, each in a thread, so that a silent name server costs no more than the time given."""

    def __init__(self, threads: int = 8) -> None:
        self._threads = ThreadPoolExecutor(threads, "alexq-resolver")

    def find(self, host: str, port: int, deadline: Deadline) -> list[Target]:
        """Return every address of ``host``; none where it has none.

        Raises:
            httpcore2.TimeoutException: there was no answer in time.
            httpcore2.NetworkError: the name server does not answer.
        """
        found = self._threads.submit(_find, host, port)
        try:
            return found.result(deadline.left_s())
        except TimeoutError as error:
            raise httpcore2.ConnectTimeout(_TIMEOUT) from error
        finally:
            found.cancel()

    def close(self) -> None:
        """Look up nothing more; twice does no harm."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def _find(host: str, port: int) -> list[Target]:
    try:
        answers = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        if error.errno == socket.EAI_AGAIN:
            raise httpcore2.ConnectError("the name server does not answer") from error
        return []
    return [Target(family, kind, protocol, sockaddr) for family, kind, protocol, _, sockaddr in answers]


class PinnedBackend(httpcore2.NetworkBackend):
    """Connects to the first address that takes the connection."""

    def __init__(self, find: Callable[[str, int], Sequence[Target]], deadline: Deadline) -> None:
        """Take ``find``, which returns the addresses of a host, checked."""
        self._find = find
        self._deadline = deadline

    def connect_tcp(self, host: str, port: int, *_: Any, **_options: Any) -> httpcore2.NetworkStream:
        """Return a connection; what is left of the deadline is the only timeout."""
        last: OSError | None = None
        for target in self._find(host, port):
            sock = socket.socket(target.family, target.kind, target.protocol)
            try:
                sock.settimeout(min(CONNECT_S, self._deadline.left_s()))
                sock.connect(target.sockaddr)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            except OSError as error:
                sock.close()
                last = error
            except BaseException:
                sock.close()
                raise
            else:
                return _Stream(sock, self._deadline)
        if isinstance(last, TimeoutError):
            raise httpcore2.ConnectTimeout(_TIMEOUT) from last
        raise httpcore2.ConnectError(str(last)) from last


class _Stream(httpcore2.NetworkStream):
    """A connected socket; httpcore's own would give each piece the whole time anew."""

    def __init__(self, sock: socket.socket, deadline: Deadline) -> None:
        self._sock = sock
        self._deadline = deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        try:
            self._sock.settimeout(self._deadline.left_s())
            return self._sock.recv(max_bytes)
        except TimeoutError as error:
            raise httpcore2.ReadTimeout(_TIMEOUT) from error
        except OSError as error:
            raise httpcore2.ReadError(str(error)) from error

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        left = memoryview(buffer)
        try:
            while left:
                self._sock.settimeout(self._deadline.left_s())
                left = left[self._sock.send(left) :]
        except TimeoutError as error:
            raise httpcore2.WriteTimeout(_TIMEOUT) from error
        except OSError as error:
            raise httpcore2.WriteError(str(error)) from error

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore2.NetworkStream:
        try:
            self._sock.settimeout(self._deadline.left_s())
            secured = ssl_context.wrap_socket(self._sock, server_hostname=server_hostname)
        except TimeoutError as error:
            self.close()
            raise httpcore2.ConnectTimeout(_TIMEOUT) from error
        except OSError as error:
            self.close()
            raise httpcore2.ConnectError(str(error)) from error
        return _Stream(secured, self._deadline)

    def close(self) -> None:
        self._sock.close()
