"""A cheap HTTP/1.1 client: images as raw bodies over keep-alive connections, one request on each at a time.

It speaks only what the peers' servers answer: a status line, headers, and a body, in chunks or not, that is
the class index, as JSON and as plain text alike.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from benchmarks.throughput.contender import Answers

SILENCE_S = 120.0


@dataclass(frozen=True)
class Form:
    """A multipart form around each image, for servers that take files in no other way."""

    field: str
    boundary: bytes = b"image-boundary"

    @property
    def content_type(self) -> str:
        """Return the request's content type."""
        return f"multipart/form-data; boundary={self.boundary.decode()}"

    def wrap(self, image: bytes) -> bytes:
        """Return the body."""
        head = b'--%b\r\nContent-Disposition: form-data; name="%b"; filename="i.jpg"\r\n' % (
            self.boundary,
            self.field.encode(),
        )
        return b"%bContent-Type: image/jpeg\r\n\r\n%b\r\n--%b--\r\n" % (head, image, self.boundary)


@dataclass(frozen=True)
class HttpClient:
    """Posts images to one loopback port."""

    port: int
    path: str
    connections: int = 128
    form: Form | None = None

    def classify(self, images: Sequence[bytes], silence_s: float = SILENCE_S) -> Answers:
        """Return the class index that the server gives for each image.

        Latencies run from this call: all images wait together, as in a queue. It costs 0.04 ms of CPU an
        image (57 kB; interpreter, kernel and loopback; not the server's side).

        Raises:
            RuntimeError: a status other than 200, an answer that is no class index, a connection that
                ended, or no answer for ``silence_s`` seconds; names the image.
            OSError: nothing listens on the port.
        """
        return asyncio.run(self._classify(images, silence_s))

    def request(self, image: bytes) -> bytes:
        """Return the whole request for an image."""
        body = self.form.wrap(image) if self.form else image
        content_type = self.form.content_type if self.form else "image/jpeg"
        head = (
            f"POST {self.path} HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\n"
            f"Content-Type: {content_type}\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body

    async def _classify(self, images: Sequence[bytes], silence_s: float) -> Answers:
        loop = asyncio.get_running_loop()
        this = _Round(self, images, loop.create_future())
        connections: list[_Connection] = []
        try:
            for _ in range(min(self.connections, len(images))):
                _, one = await loop.create_connection(lambda: _Connection(this), "127.0.0.1", self.port)
                connections.append(one)
            while True:
                seen = this.left
                done, _ = await asyncio.wait([this.finished], timeout=silence_s)
                if done:
                    break
                if this.left == seen:
                    waiting = sorted(one.number for one in connections if one.number is not None)
                    raise RuntimeError(f"images {waiting[:5]} …: no answer for {silence_s:.0f} s")
            await this.finished
        finally:
            for one in connections:
                one.close()
        return this.answers


@dataclass
class _Round:
    client: HttpClient
    images: Sequence[bytes]
    finished: asyncio.Future[None]
    answers: Answers = field(init=False)
    todo: Iterator[int] = field(init=False)
    left: int = field(init=False)
    started: float = field(default_factory=time.perf_counter)

    def __post_init__(self) -> None:
        self.left = len(self.images)
        self.todo = iter(range(self.left))
        self.answers = Answers([-1] * self.left, [0.0] * self.left)
        if not self.images:
            self.finished.set_result(None)

    def answered(self, number: int, best: int) -> None:
        self.answers.best[number] = best
        self.answers.latency_s[number] = time.perf_counter() - self.started
        self.left -= 1
        if self.left == 0 and not self.finished.done():
            self.finished.set_result(None)

    def failed(self, number: int, why: str) -> None:
        if not self.finished.done():
            self.finished.set_exception(RuntimeError(f"image {number}: {why}"))


class _Connection(asyncio.Protocol):
    """Sends an image, waits for its answer, sends the next."""

    def __init__(self, this: _Round) -> None:
        self.number: int | None = None
        self._round = this
        self._received = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._send_next()

    def close(self) -> None:
        self.number = None  # what it waits for no longer matters
        if self._transport is not None:
            self._transport.abort()

    def _send_next(self) -> None:
        assert self._transport is not None
        self.number = next(self._round.todo, None)
        if self.number is not None:
            self._transport.write(self._round.client.request(self._round.images[self.number]))

    def data_received(self, data: bytes) -> None:
        if self.number is None:
            return
        self._received += data
        try:
            answer = parse(self._received)
        except ValueError as error:
            self._round.failed(self.number, str(error))
            return
        if answer is not None:
            self._received = b""
            self._round.answered(self.number, answer)
            self._send_next()

    def connection_lost(self, exc: Exception | None) -> None:
        if self.number is not None:
            self._round.failed(self.number, f"the connection ended before the answer ({exc})")


def parse(received: bytes) -> int | None:
    """Return the class index in a response, or None while it is not complete.

    Raises:
        ValueError: a status other than 200, or a body that is no class index; says which.
    """
    head, separator, rest = received.partition(b"\r\n\r\n")
    if not separator:
        return None
    body = _body(head.lower(), rest)
    if body is None:
        return None
    status = head[9:12]
    if status != b"200":
        raise ValueError(f"status {status.decode(errors='replace')}: {body[:200]!r}")
    try:
        return int(body.strip(b'[]" \n'))
    except ValueError:
        raise ValueError(f"not a class index: {body[:200]!r}") from None


def _body(head: bytes, rest: bytes) -> bytes | None:
    """Return the body, or None while it is not complete."""
    _, has_length, value = head.partition(b"content-length:")
    if has_length:
        length = int(value.partition(b"\r\n")[0])
        return rest[:length] if len(rest) >= length else None
    if b"transfer-encoding: chunked" not in head:
        raise ValueError(f"an answer of unknown length: {head[:200]!r}")
    if not rest.endswith(b"0\r\n\r\n"):
        return None
    body = b""
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        body, rest = body + rest[: int(size, 16)], rest[int(size, 16) + 2 :]
    return body
