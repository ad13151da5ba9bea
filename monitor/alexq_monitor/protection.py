"""Who may see the dashboard, and who may act through it."""

from __future__ import annotations

from typing import Final
from urllib.parse import urlsplit

from tornado.httputil import HTTPServerRequest
from tornado.web import HTTPError

from alexq_schema.errors import SettingsError
from alexq_schema.loopback import is_loopback

HEADERS: Final = {
    # As strict as Flower's base template permits: it has no script or style of its own in the page.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' data:; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store",
}
"""Headers of every page of ours."""

OTHER_NAMES: Final = r"(?!localhost$|127(\.\d+){3}$|\[?::1\]?$).*$"
"""Host names that may lead here from anywhere: none of ``require_local_name``'s."""


def require_protection(address: str, *, has_auth: bool) -> None:
    """Refuse to show the dashboard to other machines without a login.

    Raises:
        SettingsError: ``address`` is not loopback and Flower has no authentication.
    """
    if not has_auth and not is_loopback(address):
        raise SettingsError(
            f"ALEXQ_MONITOR_ADDRESS={address!r} would show the dashboard, which can stop workers, to other "
            "machines without a login: set ALEXQ_MONITOR_LOGIN=name:password, "
            "FLOWER_BASIC_AUTH or FLOWER_AUTH, or keep 127.0.0.1"
        )


def require_local_name(request: HTTPServerRequest) -> None:
    """Refuse a name that is not this machine's: without a login, a page of another site could have led
    its own name here (DNS rebinding) and would read what is shown.

    Raises:
        HTTPError: 403.
    """
    host = _hostname(f"//{request.host}")
    if not is_loopback(host):
        raise HTTPError(
            403,
            "a dashboard without a login answers only as localhost or 127.0.0.1; "
            "set ALEXQ_MONITOR_LOGIN or FLOWER_AUTH to reach it by another name",
        )


def require_own_page(request: HTTPServerRequest) -> None:
    """Refuse what a browser sends for a page of another site, whether or not there is a login.

    Raises:
        HTTPError: 403.
    """
    site, origin = request.headers.get("Sec-Fetch-Site"), request.headers.get("Origin")
    is_ours = site == "same-origin" if site else origin is None or _netloc(origin) == request.host
    if not is_ours:
        raise HTTPError(403, "this was sent by a page of another site")


def _hostname(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def _netloc(url: str) -> str:
    try:
        return urlsplit(url).netloc
    except ValueError:
        return ""
