"""A span for each request. FastAPI has one of its own, but ``POST /v1/jobs`` does not pass FastAPI."""

from __future__ import annotations

from http import HTTPMethod
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from alexq_schema import tracing

UNTRACED: Final = frozenset({"/healthz", "/readyz", "/metrics"})
"""Asked every few seconds by machines."""

_METHODS: Final = frozenset(HTTPMethod)


class Traced:
    """Middleware that records each request as a part of the trace that its headers name.

    Names and attributes are those of OpenTelemetry's semantic conventions for HTTP servers.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        if scope["type"] != "http" or scope["path"] in UNTRACED:
            await self._app(scope, receive, send)
            return
        status = 500  # an error that nobody caught

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        method = scope["method"] if scope["method"] in _METHODS else "_OTHER"
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        about = {"http.request.method": method, "url.path": scope["path"], "url.scheme": scope["scheme"]}
        with tracing.span(method, "server", about, parent=headers):
            try:
                await self._app(scope, receive, noted)
            finally:
                route = getattr(scope.get("route"), "path", "")
                tracing.note(
                    {"http.response.status_code": status, **({"http.route": route} if route else {})},
                    name=f"{method} {route}" if route else "",
                    error=str(status) if status >= 500 else "",
                )
