"""The page at ``/``: its files, and what a browser may do with them."""

from __future__ import annotations

import hashlib
import html
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from importlib import resources
from typing import Final

from fastapi import APIRouter, Request, Response

FILES: Final = {
    "/": ("page.html", "text/html"),
    "/page/page.css": ("page.css", "text/css"),
    "/page/page.js": ("page.js", "text/javascript"),
    "/page/gateway.js": ("gateway.js", "text/javascript"),
    "/page/icon.svg": ("icon.svg", "image/svg+xml"),
}
"""Path, file in ``static/``, media type."""

HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",  # asked about each time, by its ETag
}

_DASHBOARD: Final = "<!--dashboard-->"


def router(dashboard_url: str) -> APIRouter:
    """Return the routes of the page.

    Args:
        dashboard_url: where the page's link to the dashboard leads; empty: it has none.
    """
    link = f'<a href="{html.escape(dashboard_url)}">Dashboard</a>' if dashboard_url else ""
    folder = resources.files(__package__) / "static"
    routes = APIRouter(include_in_schema=False)
    for path, (name, kind) in FILES.items():
        text = (folder / name).read_text("utf-8").replace(_DASHBOARD, link)
        routes.add_api_route(path, _serving(text.encode(), kind), methods=["GET", "HEAD"])
    return routes


def _serving(body: bytes, kind: str) -> Callable[[Request], Awaitable[Response]]:
    headers = {**HEADERS, "ETag": f'"{hashlib.sha256(body).hexdigest()[:32]}"'}

    async def serve(request: Request) -> Response:
        if request.headers.get("if-none-match") == headers["ETag"]:
            return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=headers)
        return Response(body, media_type=kind, headers=headers)

    return serve
