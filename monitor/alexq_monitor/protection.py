"""Who may see the dashboard, and who may act through it."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Collection, Mapping
from http import HTTPMethod
from typing import Any, Final
from urllib.parse import unquote_to_bytes, urlsplit

from tornado.httputil import HTTPServerRequest
from tornado.routing import Matcher
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

_SAFE: Final = (HTTPMethod.GET, HTTPMethod.HEAD, HTTPMethod.OPTIONS)
"""Methods that change nothing."""


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


def require_comparable(logins: Collection[str]) -> None:
    """Refuse logins that Flower cannot compare, by which nobody would get in.

    Raises:
        SettingsError: one is not ASCII.
    """
    if not all(login.isascii() for login in logins):
        raise SettingsError(
            "ALEXQ_MONITOR_LOGIN and FLOWER_BASIC_AUTH may hold ASCII only: Flower cannot compare more"
        )


class Refused(Matcher):
    """Matches what is refused wherever it leads, to a page of ours, to Flower's or to a file.

    Its rule comes first.
    """

    def __init__(
        self,
        given: Mapping[str, Any],
        for_programs: Collection[str],
        *,
        has_basic_auth: bool,
        has_auth: bool,
    ) -> None:
        """Prepare.

        Args:
            given: what the handler gets, beside the refusal as ``error``.
            for_programs: paths that are answered by any name of this machine.
            has_basic_auth: there is a login by name and password.
            has_auth: there is a login.
        """
        self._given = given
        self._for_programs = for_programs
        self._has_basic_auth = has_basic_auth
        self._has_auth = has_auth

    def match(self, request: HTTPServerRequest) -> dict[str, Any] | None:
        """Return what the handler gets, or None where nothing is wrong."""
        try:
            self._require_proper(request)
        except HTTPError as error:
            return {"target_kwargs": {**self._given, "error": error}}
        return None

    def _require_proper(self, request: HTTPServerRequest) -> None:
        if b"\0" in unquote_to_bytes(request.path):
            raise HTTPError(404, "there is no page of that name")
        if self._has_basic_auth:
            _require_comparable_credentials(request)
        if not self._has_auth and request.path not in self._for_programs:
            require_local_name(request)
        if request.method not in _SAFE:
            require_own_page(request)


def _require_comparable_credentials(request: HTTPServerRequest) -> None:
    """Refuse a password that Flower would fail on instead of refusing it; one not encoded at all is Flower's.

    Raises:
        HTTPError: 401.
    """
    try:
        credentials = b64decode(request.headers.get("Authorization", "").rpartition(" ")[2])
    except ValueError:
        return
    if not credentials.isascii():
        raise HTTPError(401)


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
