"""Takes requests, and refuses absurdly long ones in words, where Tornado would cut the connection."""

from __future__ import annotations

from collections.abc import Awaitable
from http import HTTPStatus
from typing import Any, Final

from tornado.httpserver import HTTPServer
from tornado.iostream import IOStream, StreamClosedError

HEADER_BYTES: Final = 65_536
"""Request line and headers, at most, as Tornado has it: nothing longer is parsed."""
READ_BYTES: Final = 16 * 1024 * 1024
"""What is read of a longer one, and let go, so that whoever still sends it gets to see the answer."""


class Server(HTTPServer):
    """An HTTP server whose refusal of a long request can be read."""

    def handle_stream(self, stream: IOStream, address: Any) -> None:
        """Serve a connection."""
        read = stream.read_until_regex

        async def read_headers(regex: bytes, max_bytes: int | None = None) -> bytes:
            data = await read(regex, max_bytes=READ_BYTES)
            if len(data) > HEADER_BYTES:
                await _refuse(stream, is_address=b"\n" not in data[:HEADER_BYTES])
            return data

        stream.read_until_regex = read_headers  # type: ignore[method-assign]
        super().handle_stream(stream, address)


async def _refuse(stream: IOStream, *, is_address: bool) -> None:
    status = HTTPStatus.REQUEST_URI_TOO_LONG if is_address else HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
    what = "The address of this page is" if is_address else "What the browser sent with its request is"
    page = (
        f'<!DOCTYPE html><html lang="en"><title>{status.phrase} · alexq</title><h1>{status.phrase}</h1>'
        f"<p>{what} longer than {HEADER_BYTES:,} bytes. Nothing was done. Ask for less.</p></html>"
    ).encode()
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: text/html; charset=UTF-8\r\n"
        f"Content-Length: {len(page)}\r\nContent-Security-Policy: default-src 'none'\r\n"
        "X-Content-Type-Options: nosniff\r\nConnection: close\r\n\r\n"
    )
    sent: Awaitable[None] = stream.write(head.encode() + page)
    await sent
    stream.close()
    raise StreamClosedError
