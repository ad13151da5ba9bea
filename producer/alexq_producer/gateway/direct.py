"""``POST /v1/jobs`` without FastAPI's middleware, routing and dependencies: half of an image's time.

FastAPI describes the operation by its function's signature, as every other; this reads the same parameters.
A middleware that is to see this operation too wraps :class:`Direct`, not the FastAPI application.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated, Final

from fastapi import APIRouter, FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel, Field, ValidationError
from starlette.types import Receive, Scope, Send

from alexq_producer.gateway.auth import BEARER, Caller, let_in
from alexq_producer.gateway.classifying import Crops, MinProbability, PinnedModel, Reuse, Temperature, TopK
from alexq_producer.gateway.headers import WebhookId, preferred_wait_s
from alexq_producer.gateway.problems import error_response
from alexq_producer.producer import MAX_DEADLINE_S
from alexq_schema import keys, options
from alexq_schema.job import TOP_K
from alexq_schema.names import Lane
from alexq_schema.options import Options

Deadline = Annotated[
    float | None,
    Query(gt=0, le=MAX_DEADLINE_S, description="Seconds after which, not begun by then, it expires."),
]


class JobOptions(BaseModel):
    """How one image is to be treated: parameters of the URL."""

    source: str = Field(
        default="", max_length=1024, description="What to call the image in results and errors."
    )
    deadline_s: Deadline = None
    lane: Lane = Lane.INTERACTIVE
    webhook: WebhookId = None
    model: PinnedModel = None
    crops: Crops = options.Crops.ONE
    top_k: TopK = TOP_K
    min_probability: MinProbability = 0.0
    temperature: Temperature = 1.0
    reuse: Reuse = False

    @property
    def how(self) -> Options | None:
        """How the image is to be classified; None: as ever."""
        return Options.of(self.model_dump(include=set(Options.model_fields)))


_DEFAULTS: Final = JobOptions()

Endpoint = Callable[[Request, Caller, float | None, JobOptions, str | None], Awaitable[Response]]
"""The function of the operation."""


class Direct:
    """An ASGI application that answers ``POST /v1/jobs``, of ``router``, and leaves the rest to ``app``."""

    def __init__(self, app: FastAPI, router: APIRouter) -> None:
        self._app = app
        [self._route] = [
            route
            for route in router.routes
            if isinstance(route, APIRoute) and (route.path, route.methods) == ("/v1/jobs", {"POST"})
        ]
        self._submit_image: Endpoint = self._route.endpoint

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http" or scope["path"] != "/v1/jobs" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        scope["app"], scope["route"] = self._app, self._route
        request = Request(scope, receive)
        try:
            response = await self._answer(request)
        except Exception as error:  # noqa: BLE001 - logged there
            response = await error_response(request, error)
        await response(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        headers = request.headers
        caller = await let_in(request, await BEARER(request), keys.Scope.SUBMIT)
        wait_s = await preferred_wait_s(headers.get("prefer"))
        key = headers.get("idempotency-key")
        return await self._submit_image(request, caller, wait_s, _options(request), key)


def _options(request: Request) -> JobOptions:
    if not request.scope["query_string"]:
        return _DEFAULTS
    try:
        return JobOptions.model_validate(dict(request.query_params))
    except ValidationError as error:
        told = [{**one, "loc": ("query", *one["loc"])} for one in error.errors()]
        raise RequestValidationError(told) from error
