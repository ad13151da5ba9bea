"""A client of the gateway that costs little: threads that write to sockets."""

from __future__ import annotations

import io
import json
import socket
import tarfile
import threading
import time
from collections.abc import Callable, Sequence

from benchmarks.producing import Pictures

IN_SUBMISSION = 500
"""Images of each submission."""


class Connection:
    """One connection to the gateway that stays open; costs less than an HTTP client."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def post(self, path: str, kind: str, body: bytes, more: str = "") -> bytes:
        """Send a request and return its answer's body.

        Raises:
            RuntimeError: it is no 2xx.
        """
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\n{more}"
        self._socket.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        told = b""
        while b"\r\n\r\n" not in told:
            told += self._socket.recv(2**16) or b"\r\n\r\n"
        answer, _, rest = told.partition(b"\r\n\r\n")
        length = int(answer.lower().partition(b"content-length:")[2].split(b"\r\n")[0] or 0)
        while len(rest) < length:
            rest += self._socket.recv(2**16)
        if not answer.startswith(b"HTTP/1.1 2"):
            raise RuntimeError(f"the gateway answered {answer.decode()}\n{rest.decode()}")
        return rest

    def close(self) -> None:
        """Close it."""
        self._socket.close()


def packed(images: Sequence[bytes]) -> bytes:
    """Return a tar of images."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for number, image in enumerate(images):
            member = tarfile.TarInfo(f"{number}.jpg")
            member.size = len(image)
            archive.addfile(member, io.BytesIO(image))
    return file.getvalue()


class Client:
    """Threads that hand images in."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._pictures = Pictures()
        self._mutex = threading.Lock()

    def singles(self, connections: int, seconds: float) -> tuple[int, float]:
        """Hand in single images for so long; return how many, and the seconds that it took."""
        until = time.perf_counter() + seconds
        counts = [0] * connections

        def one(number: int, connection: Connection) -> None:
            while time.perf_counter() < until:
                with self._mutex:
                    [image] = self._pictures.take(1)
                connection.post("/v1/jobs", "image/jpeg", image)
                counts[number] += 1

        lasted_s = self._together(connections, one)
        return sum(counts), lasted_s

    def submissions(self, connections: int, _seconds: float) -> tuple[int, float]:
        """Hand in one submission on each connection; return the images in them, and the seconds it took."""
        archives = [packed(self._pictures.take(IN_SUBMISSION)) for _ in range(connections)]

        def one(number: int, connection: Connection) -> None:
            told = json.loads(connection.post("/v1/submissions", "application/x-tar", archives[number]))
            assert told["total"] == IN_SUBMISSION

        return IN_SUBMISSION * connections, self._together(connections, one)

    def _together(self, count: int, one: Callable[[int, Connection], None]) -> float:
        connections = [Connection(self._port) for _ in range(count)]
        failed: list[Exception] = []

        def run(number: int) -> None:
            try:
                one(number, connections[number])
            except Exception as error:  # noqa: BLE001 - raised below, in the main thread
                failed.append(error)

        threads = [threading.Thread(target=run, args=[number]) for number in range(count)]
        started = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        lasted_s = time.perf_counter() - started
        for connection in connections:
            connection.close()
        if failed:
            raise failed[0]
        return lasted_s
