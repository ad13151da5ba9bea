"""Requests to the gateway and what its answers mean; nothing is sent here.

:class:`alexq_producer.client.Client` and :class:`alexq_producer.async_client.AsyncClient` share it and
:mod:`alexq_producer.operations`, and so differ in nothing but who waits.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Final

import httpx2
from pydantic import BaseModel, ValidationError

from alexq_schema import errors
from alexq_schema.errors import AlexqError, FailedError, GatewayUnavailableError, RejectedError
from alexq_schema.settings import Settings, StackFile

RETRIED: Final = frozenset({408, 429, 500, 502, 503, 504})
"""HTTP statuses that a repetition may better; also 409 for an idempotency key that is in use."""


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long a client waits, in seconds."""

    connect_s: float = 5.0
    """For a connection."""
    read_s: float = 30.0
    """For the next bytes of an answer, beyond what the request itself asks the gateway to wait."""
    write_s: float = 30.0
    """For the next bytes of a body to go out."""
    pool_s: float = 10.0
    """For a free connection, where many share the client."""

    def of(self, call: Call) -> httpx2.Timeout:
        """Return the timeouts of a request."""
        return httpx2.Timeout(
            connect=self.connect_s, read=self.read_s + call.wait_s, write=self.write_s, pool=self.pool_s
        )


@dataclass(frozen=True, slots=True)
class Retries:
    """How often, and for how long, a client repeats what failed for a passing reason."""

    attempts: int = 8
    total_s: float = 60.0


@dataclass(frozen=True, slots=True)
class Call:
    """One request, ready to be sent any number of times."""

    method: str
    path: str
    params: dict[str, Any] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    body: BinaryIO | None = None
    wait_s: float = 0.0
    """How long it asks the gateway to wait."""

    def all_headers(self) -> dict[str, str]:
        """Return its headers with the length of its body."""
        if self.body is None:
            return self.headers
        return {**self.headers, "Content-Length": str(self.body.seek(0, io.SEEK_END))}

    def pieces(self) -> Iterator[bytes]:
        """Yield its body from the start, a piece at a time."""
        assert self.body is not None
        self.body.seek(0)
        while piece := self.body.read(2**16):
            yield piece


class RetryableResponse(Exception):  # noqa: N818 - never leaves the clients
    """An answer that a repetition may better."""

    def __init__(self, error: AlexqError, after_s: float | None) -> None:
        super().__init__(str(error))
        self.error = error
        self.after_s = after_s


def server_and_key(server: str | None, api_key: str | None) -> tuple[str, str]:
    """Return the gateway's address and the API key: those given, the settings', else the running stack's.

    Raises:
        StackNotRunningError: no address is given and no embedded stack runs.
    """
    settings = Settings.load()
    url = server or settings.server or StackFile.read(settings.data_dir).gateway_url
    return url.rstrip("/"), settings.api_key if api_key is None else api_key


def check(response: httpx2.Response) -> None:
    """Raise the error that an answer, read whole, tells of, if it does.

    Raises:
        RetryableResponse: a repetition may better it.
        AlexqError: of the class that the problem's ``code`` names.
    """
    if response.status_code < 400:
        return
    error = _error_of(response.status_code, response.content)
    if response.status_code in RETRIED or isinstance(error, errors.IdempotencyKeyBusyError):
        told = response.headers.get("retry-after", "")
        raise RetryableResponse(error, float(told) if told.isdecimal() else None)
    raise error


class _Problem(BaseModel):
    code: str
    detail: str


def _error_of(status: int, body: bytes) -> AlexqError:
    try:
        problem = _Problem.model_validate_json(body)
    except ValidationError:  # something between the gateway and us answered
        text = body[:200].decode("utf-8", "replace").strip()
        detail = f"HTTP status {status}" + (f": {text}" if text else "")
        return GatewayUnavailableError(detail) if status >= 500 else errors.RequestError(detail)
    unknown: type[AlexqError] = FailedError if status >= 500 else RejectedError
    return errors.class_of(problem.code, unknown)(problem.detail)


def backoff(error: Exception) -> bool | float:
    """Return whether to repeat after ``error``, or after how many seconds: a hook for stamina."""
    if isinstance(error, RetryableResponse):
        return True if error.after_s is None else error.after_s
    return isinstance(error, httpx2.TransportError)


@contextmanager
def translated(server: str) -> Iterator[None]:
    """Turn what is left after the last attempt into an error of ours."""
    try:
        yield
    except RetryableResponse as last:
        raise last.error from last
    except httpx2.TransportError as error:
        raise GatewayUnavailableError(
            f"the gateway {server} does not answer: {error or type(error).__name__}; is `alexq up` or "
            "`alexq gateway` running there?"
        ) from error
