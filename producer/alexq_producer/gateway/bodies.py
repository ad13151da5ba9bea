"""Request bodies, taken in as they come: never whole in memory, cut when too large or too slow."""

from __future__ import annotations

import asyncio
import io
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, BinaryIO, Final, cast

from anyio import from_thread
from fastapi import Request
from starlette.requests import ClientDisconnect

from alexq_producer.gateway.core import Core
from alexq_schema.errors import AlexqError, RequestTimeoutError

MEMORY_BYTES: Final = 2**17
"""A body, or an image of many, up to this size stays in memory; what is larger goes to a file without a name,
which the system removes whatever becomes of the gateway."""

BLOCK_BYTES: Final = 2**18
"""What a thread that takes a body in gets at a time: a turn of the event loop costs as much as an image."""

GRACE_S: Final = 30.0
LEAST_BYTES_PER_S: Final = 2**10
"""A body that has come for longer than ``GRACE_S`` must have come at least this fast on average."""


class Body:
    """The body of one request, a piece at a time."""

    def __init__(self, request: Request, core: Core) -> None:
        self._request = request
        self._core = core
        self._silence_s = core.settings.gateway_body_timeout_s

    async def pieces(self, max_bytes: int, too_large: Callable[[], AlexqError]) -> AsyncIterator[bytes]:
        """Yield the body's pieces.

        Raises:
            AlexqError: what ``too_large`` returns, as soon as the body is, or says that it is, too large.
            RequestTimeoutError: nothing came for ``ALEXQ_GATEWAY_BODY_TIMEOUT_S`` seconds, or too little.
            ClientDisconnect: the client went away.
        """
        declared = self._request.headers.get("content-length", "0")
        if declared.isdecimal() and int(declared) > max_bytes:
            raise too_large()
        received, began_at = 0, time.monotonic()
        while True:
            try:
                async with asyncio.timeout(self._silence_s):
                    message = await self._request.receive()
            except TimeoutError as error:
                raise RequestTimeoutError(
                    f"no byte of the body came for {self._silence_s:g} s, after {received:,}; send it again"
                ) from error
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            piece: bytes = message.get("body", b"")
            received += len(piece)
            if not message.get("more_body", False):
                self._request.scope["alexq.body_was_read"] = True
            if received > max_bytes:
                raise too_large()
            if piece:
                yield piece
            if not message.get("more_body", False):
                return
            lasted_s = time.monotonic() - began_at
            if lasted_s > GRACE_S and received < LEAST_BYTES_PER_S * lasted_s:
                raise RequestTimeoutError(
                    f"the body came too slowly: {received:,} bytes in {lasted_s:.0f} s; send it again"
                )

    async def whole(self, max_bytes: int, too_large: Callable[[], AlexqError]) -> BinaryIO:
        """Return the whole body as a file, read from its start; raises as :meth:`pieces`."""
        file = spool()
        try:
            in_memory = 0
            async for piece in self.pieces(max_bytes, too_large):
                in_memory += len(piece)
                if in_memory <= MEMORY_BYTES:
                    file.write(piece)
                else:
                    await self._core.call(file.write, piece)
            file.seek(0)
        except BaseException:
            file.close()
            raise
        return file

    @contextmanager
    def blocks(self, max_bytes: int, too_large: Callable[[], AlexqError]) -> Iterator[Iterator[bytes]]:
        """Give the body to a thread of the core's pools; each block is read while the one before is used.

        The iterator raises as :meth:`pieces`.
        """
        ahead = _Ahead(self.pieces(max_bytes, too_large))
        try:
            yield iter(partial(from_thread.run, ahead.take), b"")
        finally:
            ahead.close()


class _Ahead:
    """The blocks of a body, the next one on its way; belongs to the event loop."""

    def __init__(self, pieces: AsyncIterator[bytes]) -> None:
        self._pieces = pieces
        self._next: asyncio.Task[bytes] | None = None

    async def take(self) -> bytes:
        """Return the next block; empty at the end."""
        task, self._next = self._next or asyncio.create_task(self._read()), None
        block = await task
        if block:
            self._next = asyncio.create_task(self._read())
            self._next.add_done_callback(_seen)
        return block

    async def _read(self) -> bytes:
        pieces, size = [], 0
        async for piece in self._pieces:
            pieces.append(piece)
            size += len(piece)
            if size >= BLOCK_BYTES:
                break
        return b"".join(pieces)

    def close(self) -> None:
        """Read no further."""
        if self._next is not None:
            self._next.cancel()


def _seen(task: asyncio.Task[bytes]) -> None:
    """Take note of an error that nobody takes any more: the upload ended by another one before."""
    if not task.cancelled():
        task.exception()


def spool() -> BinaryIO:
    """Return a new file that stays in memory while it is small."""
    return cast(BinaryIO, tempfile.SpooledTemporaryFile(MEMORY_BYTES))


class PieceReader(io.RawIOBase):
    """The pieces of a body as a file."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._rest and (piece := next(self._pieces, b"")):
            self._rest = memoryview(piece)
        taken = self._rest[: len(buffer)]
        buffer[: len(taken)] = taken
        self._rest = self._rest[len(taken) :]
        return len(taken)
