"""What every page of ours is: a page of Flower, by its login and its prefix, with stricter headers."""

from __future__ import annotations

import logging
import re
from base64 import b64decode
from http import HTTPStatus
from typing import Any, ClassVar, Final, TypeVar
from urllib.parse import urlencode
from uuid import UUID

from flower.views import BaseHandler
from tornado.web import HTTPError, RequestHandler, authenticated

from alexq_monitor import charts, words
from alexq_monitor.dashboard import Dashboard
from alexq_monitor.look import TABS, prefixed
from alexq_monitor.protection import HEADERS
from alexq_schema.errors import AlexqError, RejectedError, UnavailableError

log = logging.getLogger("alexq.monitor")

REFRESH_S: Final = 3
LONGEST_ARGUMENT: Final = 1_024
FRAGMENT: Final = "X-Alexq-Fragment"
"""Header by which a page asks for its live part alone."""

E = TypeVar("E")


class Page(BaseHandler):
    """A page with a part that refreshes itself.

    ``template`` names it: ``alexq/<template>.html`` is the live part. Pages that take input have a part above
    it, ``top``, which stays as it is while the live part changes.
    """

    template: ClassVar[str]
    title: ClassVar[str]
    tab: ClassVar[str]
    top: ClassVar[str | None] = None
    refresh_s: int = REFRESH_S
    """0: it does not refresh itself."""

    def initialize(self, dashboard: Dashboard) -> None:
        """Take what the pages share."""
        self.dashboard = dashboard

    def set_default_headers(self) -> None:
        """Set Flower's headers and ours; no other site reads our pages, whatever Flower's API allows."""
        super().set_default_headers()
        for name in ("Origin", "Headers", "Methods"):
            self.clear_header(f"Access-Control-Allow-{name}")
        for name, value in HEADERS.items():
            self.set_header(name, value)

    @authenticated
    def prepare(self) -> None:
        """Let in whom Flower lets in."""

    def check_xsrf_cookie(self) -> None:
        """Check the token, with or without a login; who sent it, ``Refused`` has checked."""
        try:
            RequestHandler.check_xsrf_cookie(self)
        except HTTPError as error:
            raise HTTPError(
                403,
                "Nothing was done: the page that this was sent from was too old, or this browser keeps no "
                "cookies for it. Open it again, and press again.",
            ) from error

    def require_admin(self) -> None:
        """Refuse an action on a dashboard that only shows.

        Raises:
            HTTPError: 403.
        """
        if not self.dashboard.is_admin:
            raise HTTPError(
                403, "this dashboard only shows: start it with ALEXQ_MONITOR_ADMIN=true to act through it"
            )

    @property
    def actor(self) -> str:
        """Who acts, for the record."""
        return f"dashboard:{self._user}"

    @property
    def _user(self) -> str:
        if isinstance(self.current_user, str):
            return self.current_user
        if self.application.options.basic_auth:  # it has been checked
            _, credentials = self.request.headers["Authorization"].split()
            return b64decode(credentials).decode().partition(":")[0]
        return "this machine"

    def asked(self, name: str) -> str | None:
        """Return an argument as it was sent, or None where it is empty.

        Raises:
            HTTPError: 400, it is absurdly long.
        """
        value: str | None = self.get_argument(name, None, escape=False)
        if value is not None and len(value) > LONGEST_ARGUMENT:
            raise HTTPError(400, f"{name}={value[:40]}…: that is longer than any {name} can be")
        return value or None

    def asked_id(self, value: str) -> UUID:
        """Return the id that a path names.

        Raises:
            HTTPError: 404, it is none.
        """
        try:
            return UUID(value)
        except ValueError:
            raise HTTPError(404, f"{value[:80]!r} is not an id") from None

    def path(self, path: str, **query: object) -> str:
        """Return the URL of a page of ours."""
        given = {name: value for name, value in query.items() if value is not None}
        return prefixed(self.dashboard.url_prefix, path) + (f"?{urlencode(given)}" if given else "")

    def show(self, **values: object) -> None:
        """Answer with the page, or with its live part where that was asked for."""
        values |= {
            "is_admin": self.dashboard.is_admin,
            "words": words,
            "charts": charts,
            "link": self.path,
        }
        live = f"alexq/{self.template}.html"
        if self.request.headers.get(FRAGMENT):
            self.finish(self.render_string(live, **values))
            return
        top = None if self.top is None else f"alexq/{self.top}.html"
        self.render(
            "alexq/page.html",
            live=live,
            top=top,
            values=values,
            page_title=self.title,
            active_tab=self.tab,
            refresh_s=self.refresh_s,
            said=self.said(),
        )

    def said(self) -> str | None:
        """Return what an action that led here has done, in words; from numbers only."""
        return None

    def said_of(self, name: str, text: str) -> str | None:
        """Return ``text`` with the number of jobs that the argument ``name`` gives, if it gives one."""
        number = self.asked(name)
        if number is None or not re.fullmatch(r"\d{1,9}", number):
            return None
        return text.format(jobs=words.plural(int(number), "job"))

    def log_exception(self, typ: Any, value: Any, tb: Any) -> None:
        """Log a source that is away in a line; it is no fault of a page."""
        if isinstance(value, AlexqError):
            log.warning("%s %s: %s", self.request.method, self.request.path, value)
        else:
            super().log_exception(typ, value, tb)

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Answer with what is wrong, in words, never with a stack trace."""
        if status_code == HTTPStatus.UNAUTHORIZED:
            super().write_error(status_code, **kwargs)
            return
        if not hasattr(self, "_current_user"):
            self.current_user = None
        error = kwargs.get("exc_info", (None, None))[1]
        status_code, message = _explained(status_code, error)
        tab = getattr(self, "tab", "")
        is_away, is_action = isinstance(error, UnavailableError), self.request.method == "POST"
        self.set_status(status_code)
        if self.request.headers.get(FRAGMENT):
            self.set_header("Content-Type", "text/plain; charset=UTF-8")
            self.finish(message)
            return
        self.render(
            "alexq/problem.html",
            message=message,
            page_title=HTTPStatus(status_code).phrase,
            active_tab=tab,
            tab_title=dict(TABS)[tab or "overview"],
            words=words,
            comes_back=is_away and not is_action and self.refresh_s,
            may_be_done=is_away and is_action,
            refresh_s=REFRESH_S,
        )


def _explained(status_code: int, error: BaseException | None) -> tuple[int, str]:
    if isinstance(error, AlexqError):
        status = (
            HTTPStatus.SERVICE_UNAVAILABLE
            if isinstance(error, UnavailableError)
            else HTTPStatus.BAD_REQUEST
            if isinstance(error, RejectedError)
            else HTTPStatus.CONFLICT
        )
        return status, str(error)
    if isinstance(error, HTTPError) and (message := error.get_message()):
        return status_code, message
    if status_code == HTTPStatus.NOT_FOUND:
        return status_code, "There is no such page."
    if status_code >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return status_code, "The dashboard could not make this page; its log says why."
    return status_code, HTTPStatus(status_code).description or HTTPStatus(status_code).phrase


class Refusal(Page):
    """The answer to a request that is refused wherever it leads."""

    def initialize(  # type: ignore[override] # Tornado hands each handler what its own rule says
        self, dashboard: Dashboard, error: HTTPError
    ) -> None:
        """Take what is wrong with it."""
        super().initialize(dashboard)
        self._error = error

    def check_xsrf_cookie(self) -> None:
        """Ask for no token: nothing is done."""

    def prepare(self) -> None:
        """Refuse it."""
        raise self._error


class StartPage(Page):
    """``/``: leads to the overview. Flower's own start page is its tab Workers."""

    tab = "overview"

    def get(self) -> None:
        """Redirect."""
        self.redirect(self.path("/overview"))
