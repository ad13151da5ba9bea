"""How many images a tenant hands in, in a time: counted in Redis for all gateways together.

Fixed windows, which begin with a tenant's first image. A request counts as one image when it begins, and as
the others that it brought when they are accepted: only then is their number known. A window in which more
came than it allows lasts longer in proportion, so that a large submission is paid for by those after it.

While Redis is away nothing is counted and everyone passes; one request every ``PAUSE_S`` asks whether it is
back.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from typing import Final

import redis
from limits import RateLimitItem, parse_many
from limits.storage import RedisStorage
from limits.strategies import FixedWindowRateLimiter
from redis.backoff import NoBackoff
from redis.retry import Retry

from alexq_schema.broker import connect
from alexq_schema.errors import RateLimitedError, SettingsError
from alexq_schema.names import KEY_RATE

TIMEOUT_S: Final = 0.15
"""How long a request waits for Redis."""

PAUSE_S: Final = 5.0
"""How long Redis is not asked after it did not answer."""

REMEMBERED: Final = 10_000
"""Tenants remembered at a time whose window is used up."""

log = logging.getLogger("alexq.gateway")


def parse_rate(rate: str) -> list[RateLimitItem]:
    """Return the limits that ``ALEXQ_GATEWAY_RATE`` names.

    Raises:
        SettingsError: it is malformed.
    """
    try:
        limits = parse_many(rate)
    except ValueError:
        limits = []
    if not limits or any(limit.amount < 1 for limit in limits):
        raise SettingsError(
            f"settings refused: ALEXQ_GATEWAY_RATE={rate!r}: write images per time, as in 200/second or "
            "200/second;10000/minute"
        )
    return limits


class Rate:
    """Counts images against limits; its methods block, and may be called by many threads."""

    def __init__(
        self, limits: Sequence[RateLimitItem], broker_url: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Prepare; connects on first use."""
        self._limits = limits
        client = connect(
            broker_url,
            socket_timeout=TIMEOUT_S,
            socket_connect_timeout=TIMEOUT_S,
            retry=Retry(NoBackoff(), 0),
        )
        self._storage = RedisStorage("redis://", connection_pool=client.connection_pool, key_prefix=KEY_RATE)
        self._counter = FixedWindowRateLimiter(self._storage)
        self._clock = clock
        self._lock = threading.Lock()
        self._away_until: float | None = None
        self._used_up: dict[str, float] = {}

    def enter(self, tenant: str) -> None:
        """Count a request as one image.

        Raises:
            RateLimitedError: the tenant has used up a window.
        """
        left_s = self._used_up.get(tenant, 0.0) - self._clock()
        if left_s <= 0:
            left_s = self._ask(lambda: self._enter(tenant))
        if left_s > 0:
            told = ", ".join(map(repr, self._limits))
            raise RateLimitedError(
                f"more images than {told} (ALEXQ_GATEWAY_RATE): send it again in {math.ceil(left_s)} s",
                left_s,
            )

    def charge(self, tenant: str, images: int) -> None:
        """Count images that were accepted beside the one that :meth:`enter` counted."""
        self._ask(lambda: self._charge(tenant, images))

    def close(self) -> None:
        """Close every connection."""
        self._storage.storage.close()

    def _enter(self, tenant: str) -> float:
        """Return how long the tenant has to wait, in seconds."""
        for limit in self._limits:
            if not self._counter.hit(limit, tenant):
                left_s = max(1.0, self._counter.get_window_stats(limit, tenant).reset_time - time.time())
                with self._lock:
                    while len(self._used_up) >= REMEMBERED:
                        self._used_up.pop(next(iter(self._used_up)))
                    self._used_up[tenant] = self._clock() + left_s
                return left_s
        return 0.0

    def _charge(self, tenant: str, images: int) -> float:
        for limit in self._limits:
            key = limit.key_for(tenant)
            came = self._storage.incr(key, limit.get_expiry(), images)
            if came > limit.amount:
                lasts_s = math.ceil(limit.get_expiry() * came / limit.amount)
                self._storage.storage.expire(self._storage.prefixed_key(key), lasts_s, gt=True)
        return 0.0

    def _ask(self, question: Callable[[], float]) -> float:
        """Return the answer, or 0 where Redis is away."""
        with self._lock:
            if self._away_until is not None:
                if self._clock() < self._away_until:
                    return 0.0
                self._away_until = self._clock() + PAUSE_S  # this one asks; the others pass meanwhile
        try:
            answer = question()
        except (redis.RedisError, OSError) as error:
            with self._lock:
                if self._away_until is None:
                    log.warning("Redis does not answer (%s): ALEXQ_GATEWAY_RATE is not enforced", error)
                self._away_until = self._clock() + PAUSE_S
            return 0.0
        with self._lock:
            self._away_until = None
        return answer
