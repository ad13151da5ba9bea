"""uvicorn's HTTP protocol with two limits that it lacks: on how long a request's head may take, and on how
much of a body one connection holds in memory; and with a problem for what is no HTTP."""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from alexq_producer.gateway.problems import MEDIA_TYPE, problem_of
from alexq_schema.errors import RequestError

HEAD_S: Final = 20.0
"""Time from the first byte of a connection, or of a further request on it, to the end of the headers."""

RECEIVE_BYTES: Final = 2**16
"""Bytes that asyncio takes from a connection at a time; by default four times as many, so that a hundred
uploads at once held 53 MB instead of 20."""


class PatientHttpProtocol(HttpToolsProtocol):
    """Closes a connection whose request has not been named within ``HEAD_S``."""

    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        transport.max_size = RECEIVE_BYTES
        self._expect_head()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._expect_head()

    def on_headers_complete(self) -> None:
        self._head_came()
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP with a problem, as every other error."""
        error = RequestError(f"this is no HTTP/1.1 request: {msg}")
        body = problem_of(error, HTTPStatus.BAD_REQUEST, instance="").model_dump_json(exclude_defaults=True)
        head = (
            f"HTTP/1.1 400 Bad Request\r\nContent-Type: {MEDIA_TYPE}\r\n"
            f"Content-Length: {len(body.encode())}\r\nConnection: close\r\n\r\n"
        )
        self.transport.write((head + body).encode())
        self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_came()
        super().connection_lost(exc)

    def _expect_head(self) -> None:
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(HEAD_S, self.transport.abort)

    def _head_came(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
