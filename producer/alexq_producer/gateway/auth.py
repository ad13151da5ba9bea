"""Who asks: API keys, and what holds where there are none."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated, Final
from urllib.parse import urlsplit

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from alexq_producer.gateway.core import Core
from alexq_schema.db import api_keys
from alexq_schema.db.api_keys import KnownKey
from alexq_schema.errors import ForbiddenError, SettingsError, UnauthenticatedError
from alexq_schema.keys import Scope, hash_of, is_well_formed
from alexq_schema.loopback import is_loopback
from alexq_schema.names import DEFAULT_QUEUE

TRUSTED_S: Final = 5.0
"""How long a key that was found valid is not looked up again: a revoked one ends within this time."""

OPEN_S: Final = 1.0
"""How long a gateway that found no key at all does not look again."""

REMEMBERED: Final = 10_000
"""Keys remembered at a time."""

BEARER: Final = HTTPBearer(
    auto_error=False,
    description="An API key of `alexq keys create`; none on a loopback gateway without keys.",
)


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks, and what they may do."""

    tenant: str | None
    """None: a gateway without keys, which shows everything to this machine."""
    scopes: frozenset[Scope]
    queue: str = DEFAULT_QUEUE
    """Where their jobs go: the key says, never the request."""
    reuse: bool = False
    """Whether past results may answer what they hand in, asked for or not."""

    @property
    def actor(self) -> str:
        """Return who acts, for the record."""
        return f"gateway:{self.tenant or 'this machine'}"


EVERYONE_HERE: Final = Caller(None, frozenset(Scope))


class Gate:
    """Lets callers in."""

    def __init__(self, core: Core, *, is_loopback: bool) -> None:
        self._core = core
        self._is_loopback = is_loopback
        self._known: dict[str, tuple[KnownKey, float]] = {}
        self._open_until = 0.0

    async def caller(self, request: Request, key: str | None) -> Caller:
        """Return who sent ``request``.

        Raises:
            UnauthenticatedError: there is no key, or not a valid one.
            ForbiddenError: a page of another site asks a gateway that has no keys.
            DatabaseUnavailableError: the key could not be looked up.
        """
        if key is not None:
            return await self._of_key(key)
        if not await self._is_open():
            raise UnauthenticatedError(
                "this needs an API key: send `Authorization: Bearer alexq_…`; `alexq keys create` makes one"
            )
        _refuse_other_sites(request)
        return EVERYONE_HERE

    async def _of_key(self, key: str) -> Caller:
        if not is_well_formed(key):
            raise UnauthenticatedError(
                "the API key is mistyped or cut off: its checksum is wrong; copy it whole, from alexq_ on"
            )
        sha256 = hash_of(key)
        known, until = self._known.get(sha256, (None, 0.0))
        if time.monotonic() >= until:
            self._known.pop(sha256, None)
            known = await self._core.call(self._look_up, sha256)
            if known is None:
                raise UnauthenticatedError(
                    "the API key is unknown or revoked; `alexq keys list` shows those that are valid"
                )
            while len(self._known) >= REMEMBERED:
                self._known.pop(next(iter(self._known)))
            self._known[sha256] = known, time.monotonic() + TRUSTED_S
        assert known is not None
        return Caller(known.tenant, known.scopes, known.queue, known.reuse)

    def _look_up(self, sha256: str) -> KnownKey | None:
        with self._core.database.read() as connection:
            return api_keys.valid(connection, sha256)

    async def _is_open(self) -> bool:
        if not self._is_loopback:
            return False
        if time.monotonic() >= self._open_until:
            if await self._core.call(self._has_keys):
                return False
            self._open_until = time.monotonic() + OPEN_S
        return True

    def _has_keys(self) -> bool:
        with self._core.database.read() as connection:
            return api_keys.any_was_made(connection)


def require_bindable(core: Core) -> None:
    """Check that the gateway may listen where its settings say.

    Raises:
        SettingsError: that is not loopback, and no API key was ever made.
        DatabaseUnavailableError: it could not be looked up.
    """
    if is_loopback(core.settings.gateway_address):
        return
    with core.database.read() as connection:
        if not api_keys.any_was_made(connection):
            raise SettingsError(
                f"ALEXQ_GATEWAY_ADDRESS={core.settings.gateway_address!r} is not loopback and there is no "
                "API key, so everyone there could submit and read: run `alexq keys create TENANT` first"
            )


def _refuse_other_sites(request: Request) -> None:
    """Refuse what a browser sends here for a page of another site: without keys it would be let in."""
    host = urlsplit(f"//{request.headers.get('host', '')}").hostname or ""
    origin = request.headers.get("origin")
    is_ours = origin is None or (urlsplit(origin).hostname or "") == host
    if not is_loopback(host) or not is_ours or request.headers.get("sec-fetch-site") == "cross-site":
        raise ForbiddenError(
            f"a gateway without API keys answers only this machine, as localhost, not {host or 'no host'!r}"
            f"{'' if origin is None else f' for {origin}'}; `alexq keys create` makes a key"
        )


async def let_in(request: Request, credentials: HTTPAuthorizationCredentials | None, scope: Scope) -> Caller:
    """Return who sent ``request``; raises as :meth:`Gate.caller`, and ForbiddenError without ``scope``."""
    gate: Gate = request.app.state.gate
    known = await gate.caller(request, None if credentials is None else credentials.credentials)
    if scope not in known.scopes and Scope.ADMIN not in known.scopes:
        has = ", ".join(sorted(known.scopes))
        raise ForbiddenError(f"this needs an API key with the scope {scope}; this one has {has}")
    return known


def needs(scope: Scope) -> Callable[..., Awaitable[Caller]]:
    """Return the dependency that lets in callers with ``scope``."""

    async def caller(
        request: Request, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(BEARER)]
    ) -> Caller:
        return await let_in(request, credentials, scope)

    return caller


Reading = Annotated[Caller, Depends(needs(Scope.READ))]
Submitting = Annotated[Caller, Depends(needs(Scope.SUBMIT))]
Administering = Annotated[Caller, Depends(needs(Scope.ADMIN))]
