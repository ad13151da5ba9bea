"""A small internet: names, public addresses that lead to servers of this process, and listeners inside."""

from __future__ import annotations

import io
import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from typing import Any

import pytest

from alexq_schema.outward import Outward

PUBLIC = "93.184.216.34"
"""An address that any guard lets through; here it leads to a server of the test."""

Talk = Callable[[socket.socket, str], None]
"""What a server does with a connection, once it has read the head of a request."""


class Internet:
    """Stands between the code under test and the system's names and connections; records both."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.names: dict[str, list[list[str]]] = {}
        """The answers to each name, in turn; the last one stays."""
        self.routes: dict[str, tuple[str, int]] = {}
        """Which real server is behind an address; others are connected to as they are."""
        self.lookups: list[str] = []
        self.connections: list[str] = []
        real_lookup, real_connect = socket.getaddrinfo, socket.socket.connect

        def look_up(host: str, port: int, *args: Any, **options: Any) -> list[Any]:
            self.lookups.append(host)
            answers = self.names.get(host)
            if answers is None:
                return real_lookup(host, port, flags=socket.AI_NUMERICHOST, type=socket.SOCK_STREAM)
            addresses = answers.pop(0) if len(answers) > 1 else answers[0]
            return [found for address in addresses for found in real_lookup(address, port, *args, **options)]

        def connect(sock: socket.socket, sockaddr: Any) -> None:
            self.connections.append(sockaddr[0])
            real_connect(sock, self.routes.get(sockaddr[0], sockaddr))

        monkeypatch.setattr(socket, "getaddrinfo", look_up)
        monkeypatch.setattr(socket.socket, "connect", connect)

    def publish(self, name: str, port: int, address: str = PUBLIC) -> None:
        """Let ``name`` have a public address, behind which a server of this machine is."""
        self.names[name] = [[address]]
        self.routes[address] = ("127.0.0.1", port)


class Inside:
    """Real listeners on loopback, IPv4 and, where there is one, IPv6, that nobody may connect to."""

    def __init__(self) -> None:
        first = socket.create_server(("127.0.0.1", 0))
        self.port: int = first.getsockname()[1]
        self._listeners = [first]
        if socket.has_ipv6:
            with suppress(OSError):  # a machine without it
                self._listeners.append(socket.create_server(("::1", self.port), family=socket.AF_INET6))

    def accepted(self) -> int:
        """Return how many connections came since the last call."""
        count = 0
        for listener in self._listeners:
            listener.setblocking(False)
            try:
                while True:
                    listener.accept()[0].close()
                    count += 1
            except BlockingIOError:
                continue
        return count

    def close(self) -> None:
        """Listen no more."""
        for listener in self._listeners:
            listener.close()


def is_short(request: bytes) -> bool:
    """Return whether more of it is to come: who closes with something unread resets the connection."""
    head, end, body = request.partition(b"\r\n\r\n")
    length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
    return not end or (length is not None and len(body) < int(length[1]))


@contextmanager
def serving(talk: Talk, wrap: Callable[[socket.socket], socket.socket] = lambda sock: sock) -> Iterator[int]:
    """Run a server on loopback that reads a request and leaves the rest to ``talk``; yields its port."""
    listener = socket.create_server(("127.0.0.1", 0))
    threads: list[threading.Thread] = []

    def serve_one(connection: socket.socket) -> None:
        try:
            with closing(wrap(connection)) as secured:
                secured.settimeout(20)
                head = b""
                while is_short(head) and (piece := secured.recv(2**16)):
                    head += piece
                if head:
                    talk(secured, head.decode("latin-1"))
        except OSError:  # the client went away, as it often should
            pass
        finally:
            connection.close()

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threads.append(threading.Thread(target=serve_one, args=(connection,), daemon=True))
            threads[-1].start()

    accepting = threading.Thread(target=accept, daemon=True)
    accepting.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        for thread in [accepting, *threads]:
            thread.join(60)


def response(body: bytes = b"", status: str = "200 OK", **headers: str) -> bytes:
    """Return an HTTP response; underscores in names of headers are hyphens."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def fetched(outward: Outward, url: str, max_bytes: int = 1000) -> bytes:
    """Return what is at a URL, up to one byte more than asked for."""
    into = io.BytesIO()
    size = outward.get(url, max_bytes=max_bytes, into=into)
    assert size == len(into.getvalue())
    return into.getvalue()
