"""Who is let in: rate, quotas and a bound on the queue. Refusals come before anything is stored.

The limits on what is unfinished go by a count of the database that is shared for a second or longer, and by
what this gateway has accepted since, which is exact. So one gateway never exceeds a quota; each further one
may, by what it accepts between two counts of its own.

A request that is repeated under its idempotency key is let in whatever the limits say: it makes no job, and
its first answer may have been lost.
"""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Final

from alexq_producer.gateway.core import Core
from alexq_producer.gateway.drain import drain_s
from alexq_producer.gateway.ledger import Ledger
from alexq_producer.gateway.metrics import Metrics
from alexq_producer.gateway.rate import Rate, parse_rate
from alexq_producer.gateway.refreshed import Refreshed
from alexq_schema.db import backlog
from alexq_schema.db.backlog import EMPTY, Queue, Usage
from alexq_schema.errors import QueueFullError, QuotaExceededError, RequestTooLargeError, ThrottledError
from alexq_schema.names import QueueLane, lanes_of

QUOTA_RETRY_S: Final = 5.0
"""``Retry-After`` of a tenant that has too much unfinished."""

MAX_RETRY_S: Final = 600.0
"""``Retry-After`` of a full queue, at most: its speed may change."""


@dataclass(frozen=True, slots=True)
class _Count:
    """The backlog as the database had it; parts that no limit asks for are empty."""

    tenants: Mapping[str | None, Usage] = field(default_factory=dict)
    queues: Mapping[QueueLane, Queue] = field(default_factory=dict)


class Grant:
    """The leave of one request to hand in images; used by one thread at a time."""

    def __init__(
        self, admission: Admission, tenant: str | None, lane: QueueLane, is_repeated: Callable[[], bool]
    ) -> None:
        self._admission = admission
        self.tenant = tenant
        self.lane = lane
        self.is_repeated = is_repeated
        self.is_free = False
        """Whether it is known to be a repetition, for which no limit holds."""
        self.taken = Usage()
        self.is_committed = False
        """Whether what was taken became jobs: set by who commits them."""

    def move(self, lane: QueueLane) -> None:
        """Ask for another lane, before anything is taken.

        Raises:
            QueueFullError: what waits in that lane and before it takes too long.
        """
        self._admission.move(self, lane)

    def take(self, image_bytes: int) -> None:
        """Count an image of the request.

        Raises:
            QuotaExceededError: the tenant may not have it beside what is unfinished.
            RequestTooLargeError: the request alone is more than the tenant may ever have.
        """
        self._admission.take(self, Usage(1, image_bytes))


class Admission:
    """Lets requests in that hand in images."""

    def __init__(self, core: Core, metrics: Metrics) -> None:
        """Prepare.

        Raises:
            SettingsError: ``ALEXQ_GATEWAY_RATE`` is malformed.
        """
        settings = core.settings
        self._core = core
        self._metrics = metrics
        self._rate = None
        if settings.gateway_rate:
            self._rate = Rate(parse_rate(settings.gateway_rate), settings.broker_url)
        self._quota = Usage(settings.max_queued_jobs_per_tenant, settings.max_queued_bytes_per_tenant)
        self._max_drain_s = settings.max_drain_s
        self._counts = self._quota != Usage() or self._max_drain_s > 0
        self._refreshed = Refreshed(self._recount)
        self._lock = threading.Lock()  # over what follows: images are taken in by many threads
        self._count = _Count()
        self._by_tenant: Ledger[str | None] = Ledger()
        self._by_lane: Ledger[QueueLane] = Ledger()

    @asynccontextmanager
    async def admit(
        self, tenant: str | None, lane: QueueLane, is_repeated: Callable[[], bool]
    ) -> AsyncIterator[Grant]:
        """Let a request in; what it takes counts until the context ends, and then if it was committed.

        Args:
            is_repeated: returns whether its jobs are there already; it may block, and is asked only before
                the request would be refused.

        Raises:
            QueueFullError: what waits in its lane and before it takes too long.
            QuotaExceededError: the tenant has too much unfinished.
            RateLimitedError: the tenant has handed in too much in this time.
            DatabaseUnavailableError: the backlog could not be counted.
        """
        grant = Grant(self, tenant, lane, is_repeated)
        try:
            try:
                await self._check(tenant, lane)
            except ThrottledError:
                grant.is_free = await self._core.call(is_repeated)
                if not grant.is_free:
                    raise
            yield grant
        except ThrottledError as error:
            self._metrics.throttled(error.code)
            raise
        finally:
            self._end(grant)
        if self._rate is not None and grant.is_committed and grant.taken.jobs > 1:
            await self._core.call(self._rate.charge, tenant or "", grant.taken.jobs - 1)

    def move(self, grant: Grant, lane: QueueLane) -> None:
        """Ask for another lane; see :meth:`Grant.move`."""
        grant.lane = lane
        with _unless_repeated(grant), self._lock:
            self._check_queue(lane)

    def take(self, grant: Grant, more: Usage) -> None:
        """Count images of a request that was let in; see :meth:`Grant.take`."""
        if not grant.is_free:
            with _unless_repeated(grant):
                self._take(grant, more)

    def close(self) -> None:
        """Close every connection."""
        if self._rate is not None:
            self._rate.close()

    def _take(self, grant: Grant, more: Usage) -> None:
        taken = grant.taken + more
        if self._counts:
            self._check_request(taken)
            with self._lock:
                self._check_quota(grant.tenant, more)
                self._by_tenant.add(grant.tenant, more)
                self._by_lane.add(grant.lane, more)
        grant.taken = taken

    async def _check(self, tenant: str | None, lane: QueueLane) -> None:
        if self._counts:
            await self._refreshed.ensure()
            with self._lock:
                self._check_queue(lane)
                self._check_quota(tenant, Usage(1, 1))
        if self._rate is not None:
            await self._core.call(self._rate.enter, tenant or "")

    def _end(self, grant: Grant) -> None:
        if self._counts and grant.taken.jobs:
            with self._lock:
                self._by_tenant.close(grant.tenant, grant.taken, is_committed=grant.is_committed)
                self._by_lane.close(grant.lane, grant.taken, is_committed=grant.is_committed)
        if grant.is_committed:
            self._metrics.accepted(grant.lane.lane, grant.taken.jobs)

    def _check_queue(self, lane: QueueLane) -> None:
        if not self._max_drain_s:
            return
        lanes = lanes_of(lane.queue)
        added = sum(self._by_lane.of(one).jobs for one in lanes[: lanes.index(lane) + 1])
        takes_s = drain_s(self._count.queues.get(lane, EMPTY), added)
        if takes_s > self._max_drain_s:
            raise QueueFullError(
                f"what waits for the {lane.lane} lane takes about {takes_s:,.0f} s, more than "
                f"{self._max_drain_s:g} s (ALEXQ_MAX_DRAIN_S): send it again later",
                min(takes_s - self._max_drain_s, MAX_RETRY_S),
            )

    def _check_quota(self, tenant: str | None, more: Usage) -> None:
        has = self._count.tenants.get(tenant, Usage()) + self._by_tenant.of(tenant)
        sums = has + more
        if 0 < self._quota.jobs < sums.jobs:
            raise QuotaExceededError(
                f"{has.jobs:,} jobs are unfinished, and {self._quota.jobs:,} may be "
                "(ALEXQ_MAX_QUEUED_JOBS_PER_TENANT): send it again when some are done",
                QUOTA_RETRY_S,
            )
        if 0 < self._quota.image_bytes < sums.image_bytes:
            raise QuotaExceededError(
                f"unfinished jobs have {has.image_bytes:,} bytes of images, and may have "
                f"{self._quota.image_bytes:,} (ALEXQ_MAX_QUEUED_BYTES_PER_TENANT): send it again when some "
                "are done",
                QUOTA_RETRY_S,
            )

    def _check_request(self, taken: Usage) -> None:
        if 0 < self._quota.jobs < taken.jobs:
            raise RequestTooLargeError(
                f"more than {self._quota.jobs:,} images are never taken at once "
                "(ALEXQ_MAX_QUEUED_JOBS_PER_TENANT): send it in parts"
            )
        if 0 < self._quota.image_bytes < taken.image_bytes:
            raise RequestTooLargeError(
                f"more than {self._quota.image_bytes:,} bytes of images are never taken at once "
                "(ALEXQ_MAX_QUEUED_BYTES_PER_TENANT): send it in parts"
            )

    async def _recount(self) -> None:
        with self._lock:
            self._by_tenant.count_begins()
            self._by_lane.count_begins()
        count = await self._core.call(self._read)
        with self._lock:
            self._count = count
            self._by_tenant.count_ends()
            self._by_lane.count_ends()

    def _read(self) -> _Count:
        with self._core.database.read() as connection:
            return _Count(
                backlog.usage_by_tenant(connection) if self._quota != Usage() else {},
                backlog.queues(connection) if self._max_drain_s else {},
            )


@contextmanager
def _unless_repeated(grant: Grant) -> Iterator[None]:
    """Pass over a refusal where the request turns out to be a repetition."""
    try:
        yield
    except (ThrottledError, RequestTooLargeError):
        grant.is_free = grant.is_free or grant.is_repeated()
        if not grant.is_free:
            raise
