"""Every error as RFC 9457 problem+json: a stable ``code``, what was wrong, with which input, what to do."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final

import anyio
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.routing import compile_path
from starlette.types import Receive, Scope, Send

from alexq_schema import errors
from alexq_schema.errors import AlexqError

MEDIA_TYPE: Final = "application/problem+json"
UNAVAILABLE_RETRY_S: Final = 2
BUSY_RETRY_S: Final = 1

LINGER_S: Final = 2.0
LINGER_BYTES: Final = 2**24
"""How long, and for how much, a body that was refused is still read, so that the client sees the answer
instead of a reset connection."""

log = logging.getLogger("alexq.gateway")

_STATUS: Final[tuple[tuple[type[AlexqError], HTTPStatus], ...]] = (
    (errors.UnauthenticatedError, HTTPStatus.UNAUTHORIZED),
    (errors.ForbiddenError, HTTPStatus.FORBIDDEN),
    (errors.JobNotFoundError, HTTPStatus.NOT_FOUND),
    (errors.WebhookNotFoundError, HTTPStatus.NOT_FOUND),
    (errors.RouteNotFoundError, HTTPStatus.NOT_FOUND),
    (errors.ModelNotFoundError, HTTPStatus.NOT_FOUND),
    (errors.MethodNotAllowedError, HTTPStatus.METHOD_NOT_ALLOWED),
    (errors.RequestTimeoutError, HTTPStatus.REQUEST_TIMEOUT),
    (errors.IdempotencyKeyBusyError, HTTPStatus.CONFLICT),
    (errors.JobStateError, HTTPStatus.CONFLICT),
    (errors.ImageTooLargeError, HTTPStatus.REQUEST_ENTITY_TOO_LARGE),
    (errors.RequestTooLargeError, HTTPStatus.REQUEST_ENTITY_TOO_LARGE),
    (errors.ImageTypeError, HTTPStatus.UNSUPPORTED_MEDIA_TYPE),
    (errors.MediaTypeError, HTTPStatus.UNSUPPORTED_MEDIA_TYPE),
    (errors.IdempotencyKeyReusedError, HTTPStatus.UNPROCESSABLE_ENTITY),
    (errors.RequestError, HTTPStatus.UNPROCESSABLE_ENTITY),
    (errors.ImageError, HTTPStatus.UNPROCESSABLE_ENTITY),
    (errors.OutwardRefusedError, HTTPStatus.UNPROCESSABLE_ENTITY),
    (errors.PinnedModelError, HTTPStatus.UNPROCESSABLE_ENTITY),
    (errors.UsageError, HTTPStatus.UNPROCESSABLE_ENTITY),
    (errors.QueueFullError, HTTPStatus.SERVICE_UNAVAILABLE),
    (errors.ThrottledError, HTTPStatus.TOO_MANY_REQUESTS),
    (errors.UnavailableError, HTTPStatus.SERVICE_UNAVAILABLE),
    (errors.MigrationError, HTTPStatus.SERVICE_UNAVAILABLE),
    (errors.ModelNotReadyError, HTTPStatus.SERVICE_UNAVAILABLE),
    (errors.WaitTimeoutError, HTTPStatus.GATEWAY_TIMEOUT),
)
"""The first class that fits decides; anything else is 500."""


class InputProblem(BaseModel):
    """What is wrong with one input of a request."""

    source: str = Field(examples=["cat.jpg"])
    """The file's name, the parameter's or the field's."""
    code: str = Field(examples=["image_truncated"])
    detail: str


class Problem(BaseModel):
    """An error, as RFC 9457 problem details."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "type": "urn:alexq:error:job_not_found",
                    "title": "No job or submission has this id, or it is another tenant's.",
                    "status": 404,
                    "detail": "there is no job 01890a5d-ac96-774b-bcce-b302099a8057",
                    "instance": "/v1/jobs/01890a5d-ac96-774b-bcce-b302099a8057",
                    "code": "job_not_found",
                    "is_retryable": False,
                }
            ]
        }
    )

    type: str
    title: str
    status: int
    detail: str
    """What was wrong, with which input, and what to do."""
    instance: str
    """The path of the request."""
    code: str
    """Stable: one of :mod:`alexq_schema.errors`."""
    is_retryable: bool
    """Whether the same request may succeed later."""
    errors: list[InputProblem] = []
    """One for each input that is wrong, where several may be."""


class InferenceError(BaseModel):
    """An error, as the Open Inference Protocol has it."""

    error: str
    """What was wrong, with which input, and what to do."""


class ErrorResponse(Response):
    """An error, after which a body that was not read to its end is not waited for."""

    def __init__(
        self, told: BaseModel, status: int, headers: dict[str, str], media_type: str, *, closes: bool
    ) -> None:
        if closes:
            headers = {**headers, "Connection": "close"}
        super().__init__(told.model_dump_json(exclude_defaults=True), status, headers, media_type)
        self._closes = closes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not self._closes:
            await super().__call__(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": self.body, "more_body": True})
        with anyio.move_on_after(LINGER_S):
            await _read_on(receive)
        await send({"type": "http.response.body", "body": b""})


async def _read_on(receive: Receive) -> None:
    left = LINGER_BYTES
    while left > 0:
        message = await receive()
        if message["type"] != "http.request" or not message.get("more_body", False):
            return
        left -= len(message.get("body", b""))


def status_of(kind: type[AlexqError]) -> HTTPStatus:
    """Return the HTTP status of an error."""
    return next(
        (status for base, status in _STATUS if issubclass(kind, base)), HTTPStatus.INTERNAL_SERVER_ERROR
    )


def problem_of(
    error: AlexqError, status: int, *, instance: str, inputs: Sequence[InputProblem] = ()
) -> Problem:
    """Return ``error`` as a problem."""
    return Problem(
        type=f"urn:alexq:error:{error.code}",
        title=(type(error).__doc__ or error.code).partition("\n")[0].replace("``", "`"),
        status=status,
        detail=error.detail,
        instance=instance,
        code=error.code,
        is_retryable=error.is_retryable,
        errors=list(inputs),
    )


def problem_response(
    request: Request,
    error: AlexqError,
    *,
    inputs: Sequence[InputProblem] = (),
    headers: Mapping[str, str] | None = None,
) -> Response:
    """Return the response that tells of ``error``, in the shape that the request's path has for errors."""
    status = status_of(type(error))
    told = told_of(error, request.url.path, inputs=inputs)
    kind = MEDIA_TYPE if isinstance(told, Problem) else "application/json"
    sent = {**_headers(status, error), **(headers or {})}
    return ErrorResponse(told, status, sent, kind, closes=not _body_was_read(request))


def told_of(error: AlexqError, path: str, *, inputs: Sequence[InputProblem] = ()) -> Problem | InferenceError:
    """Return ``error`` in the shape that this path has for errors."""
    if path == "/v2" or path.startswith("/v2/"):
        return InferenceError(error=error.detail)
    return problem_of(error, status_of(type(error)), instance=path, inputs=inputs)


def _headers(status: HTTPStatus, error: AlexqError) -> dict[str, str]:
    if status is HTTPStatus.UNAUTHORIZED:
        return {"WWW-Authenticate": 'Bearer realm="alexq"'}
    if isinstance(error, errors.ThrottledError):
        return {"Retry-After": str(max(1, math.ceil(error.retry_after_s)))}
    if status is HTTPStatus.SERVICE_UNAVAILABLE:
        return {"Retry-After": str(UNAVAILABLE_RETRY_S)}
    if error.is_retryable:
        return {"Retry-After": str(BUSY_RETRY_S)}
    return {}


def _body_was_read(request: Request) -> bool:
    has_body = "transfer-encoding" in request.headers or request.headers.get("content-length", "0") != "0"
    return not has_body or bool(request.scope.get("alexq.body_was_read"))


async def error_response(request: Request, error: Exception) -> Response:
    """Return the response that tells of whatever went wrong."""
    if isinstance(error, ClientDisconnect):
        return Response(status_code=HTTPStatus.BAD_REQUEST)  # nobody reads it
    if isinstance(error, RequestValidationError):
        return _invalid(request, error)
    if isinstance(error, HTTPException):
        is_method = error.status_code == HTTPStatus.METHOD_NOT_ALLOWED
        headers = {"Allow": _allowed(request, error)} if is_method else {}
        return problem_response(request, _translated(request, error), headers=headers)
    if not isinstance(error, AlexqError) or status_of(type(error)) is HTTPStatus.INTERNAL_SERVER_ERROR:
        log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    if not isinstance(error, AlexqError):
        error = errors.FailedError("the gateway failed on this request; its log says why")
    return problem_response(request, error)


def install(app: FastAPI) -> None:
    """Make ``app`` answer every error with a problem."""
    for kind in (AlexqError, RequestValidationError, HTTPException, ClientDisconnect, Exception):
        app.add_exception_handler(kind, error_response)


def _invalid(request: Request, error: RequestValidationError) -> Response:
    inputs = [
        InputProblem(source=".".join(map(str, one["loc"])), code=errors.RequestError.code, detail=one["msg"])
        for one in error.errors()
    ]
    told = "; ".join(f"{one.source}: {one.detail}" for one in inputs)
    return problem_response(
        request, errors.RequestError(f"the request makes no sense: {told}"), inputs=inputs
    )


def _translated(request: Request, error: HTTPException) -> AlexqError:
    path = request.url.path
    if error.status_code == HTTPStatus.NOT_FOUND:
        return errors.RouteNotFoundError(f"there is no {path}; /openapi.json lists every path")
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        return errors.MethodNotAllowedError(f"{path} takes {_allowed(request, error)}, not {request.method}")
    return errors.RequestError(str(error.detail))


def _allowed(request: Request, error: HTTPException) -> str:
    """Return the methods that this path takes: each of the document's is a route of its own."""
    paths = request.app.openapi()["paths"].items()
    fitting = [operations for path, operations in paths if compile_path(path)[0].match(request.url.path)]
    methods = [method.upper() for operations in fitting for method in operations]
    return ", ".join(sorted(methods or (error.headers or {})["Allow"].split(", ")))


RESPONSES: Final[dict[int | str, dict[str, Any]]] = {
    "default": {
        "description": "An error, as RFC 9457 problem details.",
        "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }
}
"""What every operation may answer besides."""
