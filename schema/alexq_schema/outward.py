"""HTTP to addresses that others name, without a way into the network that alexq runs in (SSRF).

A URL is taken apart once, by one parser, and checked: http or https, no user name, an allowed host and
port. Its host is then looked up once, every address that comes back must be one that alexq may go to, and
the socket connects to such an address, not to the name; TLS still checks the certificate against the name.
A redirect is a new URL and goes the same way. Proxies, ``.netrc`` and cookies are not used. Every exchange
is a connection of its own and has one deadline, from the look-up to the last byte.

An object may be used by many threads; it owns the few in which names are looked up.
"""

from __future__ import annotations

import io
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from ipaddress import ip_address
from typing import BinaryIO, Final

import httpcore2
import httpx2
from httpx2 import InvalidURL

from alexq_schema.addresses import is_in_house, is_public
from alexq_schema.errors import OutwardRefusedError, OutwardUnavailableError, SettingsError
from alexq_schema.pinned import Deadline, PinnedBackend, Resolver, Target

MAX_URL_LENGTH: Final = 4096
MAX_REDIRECTS: Final = 3
ANSWER_BYTES: Final = 1024
"""What is kept of the answer to a POST."""

_HOST: Final = re.compile(
    r"(?=.{1,253}$)([a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?\.)*[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
)
_NUMBER: Final = re.compile(r"(.*\.)?(\d+|0x[0-9a-f]*)")
"""A host that ends in a number is an address, in a way of writing that programs read differently."""

_REDIRECTS: Final = frozenset((301, 302, 303, 307, 308))
_PASSING: Final = frozenset((408, 425, 429))
_BROKEN: Final = (httpcore2.TimeoutException, httpcore2.NetworkError, httpcore2.ProtocolError)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server said to a POST."""

    status: int
    retry_after_s: float | None
    """How long it asks to be left alone."""
    body: bytes
    """The first :data:`ANSWER_BYTES` at most."""


class Outward:
    """Sends requests to URLs that others name."""

    def __init__(self, *, hosts: Sequence[str] | None, timeout_s: float, allow_private: bool = False) -> None:
        """Prepare; nothing is sent.

        Args:
            hosts: those allowed: ``example.com``, ``*.example.com`` (whatever is below it), ``*``; None: any.
            timeout_s: of a whole exchange, look-up and redirects included.
            allow_private: loopback and private networks are allowed too; metadata services never.

        Raises:
            SettingsError: a pattern is malformed.
        """
        self._hosts = None if hosts is None else [_pattern(host) for host in hosts]
        self._timeout_s = timeout_s
        self._allow_private = allow_private
        self._tls = httpcore2.default_ssl_context()
        self._resolver = Resolver()

    def check(self, url: str) -> None:
        """Look at the URL only; its host may still turn out to be at an address that is refused.

        Raises:
            OutwardRefusedError: alexq does not go there, whatever is there.
        """
        self._checked(url)

    def get(self, url: str, *, max_bytes: int, into: BinaryIO) -> int:
        """Write what is at ``url`` into a file; follows redirects.

        Returns:
            The bytes written. It stops at ``max_bytes + 1``: more than was asked for means "too large".

        Raises:
            OutwardRefusedError: alexq does not go there, or the server has no such thing.
            OutwardUnavailableError: the server did not answer, or not in time; later it may.
        """
        deadline = Deadline(self._timeout_s)
        target = self._checked(url)
        for _ in range(MAX_REDIRECTS + 1):
            with self._exchange("GET", target, deadline) as response:
                headers = httpx2.Headers(response.headers)
                if response.status in _REDIRECTS and "location" in headers:
                    target = self._redirected(target, headers["location"])
                    continue
                _require_content(target, response.status, headers)
                return _copy(response.iter_stream(), into, max_bytes + 1)
        raise OutwardRefusedError(f"{named(url)}: more than {MAX_REDIRECTS} redirects")

    def post(self, url: str, *, content: bytes, headers: Mapping[str, str]) -> Answer:
        """Send ``content`` and return the answer, of whatever status; a redirect is not followed.

        Raises:
            OutwardRefusedError: alexq does not go there.
            OutwardUnavailableError: the server did not answer, or not in time.
        """
        deadline = Deadline(self._timeout_s)
        with self._exchange("POST", self._checked(url), deadline, content, headers) as response:
            told = httpx2.Headers(response.headers).get("retry-after", "")
            body = io.BytesIO()
            with suppress(*_BROKEN):  # the status is told already
                _copy(response.iter_stream(), body, ANSWER_BYTES)
            return Answer(response.status, _seconds(told), body.getvalue())

    def close(self) -> None:
        """Look up nothing more; twice does no harm."""
        self._resolver.close()

    def _checked(self, url: str) -> httpx2.URL:
        if len(url) > MAX_URL_LENGTH or not url.isprintable() or re.search(r"[\s\\]", url):
            raise OutwardRefusedError(
                f"{named(url)}: a URL has up to {MAX_URL_LENGTH:,} characters, none of them blank, "
                "a control character or a backslash"
            )
        try:
            parsed = httpx2.URL(url)
        except InvalidURL as error:
            raise OutwardRefusedError(f"{named(url)} is no URL: {error}") from error
        if parsed.scheme not in ("http", "https") or not parsed.host:
            raise OutwardRefusedError(f"{named(url)}: give an http:// or https:// URL")
        if parsed.userinfo or "@" in re.split(r"[/?#]", url.partition("://")[2])[0]:
            raise OutwardRefusedError(f"{named(url)}: a URL with a user name or password is not taken")
        # Not the other services of old: mail, SSH and the like.
        if _port(parsed) not in (80, 443) and not 1024 <= _port(parsed) < 65536:
            raise OutwardRefusedError(f"{named(url)}: the port must be 80, 443 or one from 1024 to 65535")
        self._check_host(parsed.raw_host.decode("ascii"), url)
        return parsed

    def _check_host(self, host: str, url: str) -> None:
        try:
            host = str(ip_address(host))
        except ValueError:
            if not _HOST.fullmatch(host) or _NUMBER.fullmatch(host):
                raise OutwardRefusedError(
                    f"{named(url)}: the host is neither a name nor an address in its usual form"
                ) from None
        else:
            if not self._may_reach([host]):
                raise _unreachable(host)
        if self._hosts is not None and not any(_fits(host, pattern) for pattern in self._hosts):
            raise OutwardRefusedError(f"{named(url)}: {host} is not among the hosts that are allowed")

    def _may_reach(self, addresses: Iterable[str]) -> bool:
        found = [ip_address(address) for address in addresses]
        return bool(found) and all(
            is_public(address) or (self._allow_private and is_in_house(address)) for address in found
        )

    def _redirected(self, origin: httpx2.URL, location: str) -> httpx2.URL:
        try:
            target = self._checked(str(origin.join(location)))
        except InvalidURL as error:
            raise OutwardRefusedError(f"{named(str(origin))} redirects to what is no URL") from error
        if origin.scheme == "https" and target.scheme == "http":
            raise OutwardRefusedError(f"{named(str(origin))} redirects from https to http")
        return target

    @contextmanager
    def _exchange(
        self,
        method: str,
        url: httpx2.URL,
        deadline: Deadline,
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Iterator[httpcore2.Response]:
        """Send a request over a connection of its own, which ends with the block."""
        sent = httpx2.Headers({"User-Agent": "alexq", **(headers or {})})
        sent.update(
            {"Host": url.netloc.decode("ascii"), "Accept-Encoding": "identity", "Connection": "close"}
        )
        if content is not None:
            sent["Content-Length"] = str(len(content))
        core = httpcore2.URL(scheme=url.raw_scheme, host=url.raw_host, port=_port(url), target=url.raw_path)
        request = httpcore2.Request(method, core, headers=sent.raw, content=content)
        backend = PinnedBackend(lambda host, port: self._targets(host, port, deadline), deadline)
        try:
            with (
                httpcore2.HTTPConnection(core.origin, self._tls, network_backend=backend) as connection,
                closing(connection.handle_request(request)) as response,
            ):
                yield response
        except httpcore2.TimeoutException as error:
            raise OutwardUnavailableError(
                f"{named(str(url))}: no full answer in {self._timeout_s:g} s"
            ) from error
        except _BROKEN as error:
            raise OutwardUnavailableError(f"{named(str(url))} does not answer: {error}") from error

    def _targets(self, host: str, port: int, deadline: Deadline) -> list[Target]:
        targets = self._resolver.find(host, port, deadline)
        if not self._may_reach(str(target.sockaddr[0]) for target in targets):
            raise _unreachable(host)
        return targets


def named(url: str) -> str:
    """Return ``url`` as it may be shown and kept: without password and query, which may be secret."""
    shown = re.sub(r"(?<=//)[^/]*@", "", re.split(r"[?#]", url)[0])[:200]
    return "".join(letter if letter.isprintable() else "�" for letter in shown) or "the URL"


def _unreachable(host: str) -> OutwardRefusedError:
    # The same for a name that is unknown and one that leads inside: which of the two is nobody's business.
    return OutwardRefusedError(f"{host} has no address that alexq goes to")


def _pattern(host: str) -> str:
    """Return a pattern of allowed hosts as URLs write hosts."""
    below, name = ("*.", host[2:]) if host.startswith("*.") else ("", host)
    if name == "*":
        return name
    try:
        return str(ip_address(name.strip("[]"))) if not below else below + _host(name)
    except ValueError:
        return below + _host(name)


def _host(name: str) -> str:
    try:
        host = httpx2.URL(scheme="http", host=name).raw_host.decode("ascii")
    except InvalidURL:
        host = ""
    if not _HOST.fullmatch(host) or _NUMBER.fullmatch(host):
        raise SettingsError(f"{name!r} is no host that could be allowed: write example.com or *.example.com")
    return host


def _fits(host: str, pattern: str) -> bool:
    return host.endswith(pattern[1:]) if pattern.startswith("*") else host == pattern


def _port(url: httpx2.URL) -> int:
    return url.port if url.port is not None else {"http": 80, "https": 443}[url.scheme]


def _require_content(url: httpx2.URL, status: int, headers: httpx2.Headers) -> None:
    if status >= 500 or status in _PASSING:
        raise OutwardUnavailableError(f"{named(str(url))} answers with status {status}")
    if status != 200:
        raise OutwardRefusedError(f"{named(str(url))} answers with status {status}")
    if headers.get("content-encoding", "identity").lower() != "identity":
        raise OutwardRefusedError(f"{named(str(url))} answers with a compressed body, which is not unpacked")


def _copy(pieces: Iterable[bytes], into: BinaryIO, most: int) -> int:
    size = 0
    for piece in pieces:
        size += into.write(piece[: most - size])
        if size == most:
            break
    return size


def _seconds(retry_after: str) -> float | None:
    """Return a ``Retry-After``, in seconds or a date, as seconds."""
    if retry_after.isascii() and retry_after.isdecimal():
        return float(retry_after)
    try:
        return max(0.0, parsedate_to_datetime(retry_after).timestamp() - time.time())
    except ValueError:
        return None
