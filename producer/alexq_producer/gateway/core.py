"""What every request shares: connections, and the bounded pools in which blocking work runs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from contextvars import copy_context
from functools import partial
from typing import Final, ParamSpec, TypeVar

from anyio import CapacityLimiter, to_thread
from celery import Celery

from alexq_producer.acceptance import Acceptance
from alexq_producer.announcements import Announcements
from alexq_producer.submission import Reader
from alexq_schema.celery_settings import celery_config
from alexq_schema.db.session import Database
from alexq_schema.ids import new_tag, tagged_id
from alexq_schema.images import open_image_store
from alexq_schema.outward import Outward
from alexq_schema.settings import Settings

P = ParamSpec("P")
T = TypeVar("T")

CALL_THREADS: Final = 32
"""Blocking calls at a time: as many submissions can be accepted together."""

UPLOAD_THREADS: Final = 16
"""Uploads of many images that are read at a time; more wait, unread."""

LARGE_THREADS: Final = 4
"""Bodies that must be in memory whole to be understood, at a time."""


class Core:
    """Database, image store, broker and pools of one gateway."""

    def __init__(self, settings: Settings) -> None:
        """Prepare; connections are made on first use.

        Raises:
            SettingsError: a URL is malformed.
        """
        self.settings = settings
        self.is_stopping = False
        """Whoever waits for a job is sent away soon: another gateway, or this one later, goes on."""
        self.database = Database(settings.database_url)
        self.images = open_image_store(settings.images_url)
        self.tag = new_tag()
        self.reader = Reader(self.database)
        self.announcements = Announcements(
            settings.broker_url,
            settings.publish_timeout_s,
            own=tagged_id(self.tag),
            read=self.reader.finished,
        )
        self._celery = Celery("alexq-gateway", set_as_current=False)
        self._celery.conf.update(celery_config(settings))
        self.acceptance = Acceptance(self.images, self.database, self._celery, publishes_later=True)
        self.outward = Outward(
            hosts=None, timeout_s=settings.publish_timeout_s, allow_private=settings.webhook_private
        )
        self._calls = ThreadPoolExecutor(CALL_THREADS, "call")
        self._uploads = CapacityLimiter(UPLOAD_THREADS)
        self._large = CapacityLimiter(LARGE_THREADS)

    async def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return ``function(…)``, run in the pool for short blocking calls."""
        loop = asyncio.get_running_loop()
        call = partial(copy_context().run, function, *args, **kwargs)  # it goes on with the request's trace
        return await loop.run_in_executor(self._calls, call)

    async def call_slow(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return ``function(…)``, run in the pool for those that go as fast as a client sends."""
        return await to_thread.run_sync(partial(function, *args, **kwargs), limiter=self._uploads)

    async def call_large(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return ``function(…)``, run in the pool for those that need much memory."""
        return await to_thread.run_sync(partial(function, *args, **kwargs), limiter=self._large)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Subscribe to the channel on which this gateway's jobs are announced; close all at the end."""
        try:
            await self.call(self._subscribe)
            yield
        finally:
            await self.call(self._close)

    def _subscribe(self) -> None:
        with self.announcements.of(tagged_id(self.tag), []):
            pass  # the subscription stays

    def _close(self) -> None:
        self.acceptance.close(2 * self.settings.publish_timeout_s)
        self._celery.close()
        self.outward.close()
        self.announcements.close()
        self.database.close()
