"""Where the dashboard gets what it shows: the database, Redis, images and models.

Nothing of it runs on the event loop. Each kind of source has threads of its own, a bounded number of calls
that wait for them, and a time after which a caller is told that there is no answer: a source that hangs
costs its own threads and nobody else's.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Final, Generic, TypeVar

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry
from sqlalchemy import Connection, make_url

from alexq_schema.broker import connect
from alexq_schema.db.bounded import read_within
from alexq_schema.db.session import Database
from alexq_schema.errors import (
    AlexqError,
    BrokerUnavailableError,
    DatabaseUnavailableError,
    ImageStoreError,
    UnavailableError,
)
from alexq_schema.images import open_image_store
from alexq_schema.models import ModelStore
from alexq_schema.settings import Settings

T = TypeVar("T")

STATEMENT_S: Final = 4.0
"""Time for one statement that reads."""
GRACE_S: Final = 2.0
"""Time beyond, until who asked is told that there is no answer."""
WRITE_S: Final = 40.0
"""Time for a transaction that writes: on SQLite it waits for its turn."""
FILES_S: Final = 10.0
HASH_S: Final = 120.0
"""Time to read a model's weights through their hash."""
BROKER_S: Final = 2.0


class Pool:
    """A few threads for calls that may hang, and a bounded line before them. For one event loop."""

    def __init__(self, what: str, error: type[UnavailableError], *, threads: int, waiting: int) -> None:
        self._what, self._error = what, error
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix=what.replace(" ", "-"))
        self._room = threads + waiting
        self._open = 0

    async def call(self, work: Callable[[], T], limit_s: float) -> T:
        """Return what ``work`` returns; after ``limit_s`` it goes on, or is never begun, for nobody.

        Raises:
            UnavailableError: the pool's own; too many calls wait already, or the time is over.
        """
        if self._open >= self._room:
            raise self._error(f"{self._what} does not keep up: {self._open} questions wait for it")
        self._open += 1
        loop = asyncio.get_running_loop()
        future = self._executor.submit(work)
        future.add_done_callback(lambda done: loop.call_soon_threadsafe(self._close, done))
        try:
            return await asyncio.wait_for(asyncio.wrap_future(future), limit_s)
        except TimeoutError as error:
            raise self._error(f"{self._what} did not answer within {limit_s:g} s") from error

    def _close(self, _done: Future[T]) -> None:
        self._open -= 1


class Shared(Generic[T]):
    """One answer for all who ask within ``keep_s``: read once, its error shared too. For one event loop."""

    def __init__(self, read: Callable[[], Awaitable[T]], keep_s: float) -> None:
        self._read, self._keep_s = read, keep_s
        self._task: asyncio.Task[T] | None = None
        self._done_at = 0.0

    async def get(self) -> T:
        """Return the answer, or raise what the reading raised."""
        task = self._task
        if task is None or (task.done() and time.monotonic() - self._done_at > self._keep_s):
            task = self._task = asyncio.ensure_future(self._once())
        return await asyncio.shield(task)

    async def _once(self) -> T:
        try:
            return await self._read()
        finally:
            self._done_at = time.monotonic()


class Sources:
    """Every source, opened on first use."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.images = open_image_store(settings.images_url)
        self.models = ModelStore(settings.models_dir)
        self._database = Database(settings.database_url)
        self._file = _sqlite_file(settings.database_url)
        self._redis = connect(
            settings.broker_url,
            socket_timeout=BROKER_S,
            socket_connect_timeout=BROKER_S,
            retry=Retry(NoBackoff(), 0),
        )
        self._sql = Pool("the database", DatabaseUnavailableError, threads=6, waiting=24)
        self._broker = Pool("Redis", BrokerUnavailableError, threads=2, waiting=8)
        self._files = Pool("the image store", ImageStoreError, threads=2, waiting=16)

    async def read(self, work: Callable[[Connection], T], limit_s: float = STATEMENT_S) -> T:
        """Return what ``work`` reads in a transaction, each statement within ``limit_s``.

        Raises:
            DatabaseUnavailableError: the database does not answer in time.
        """

        def reading() -> T:
            self._require_file()
            with read_within(self._database, limit_s) as connection:
                return work(connection)

        return await self._sql.call(reading, limit_s + GRACE_S)

    async def write(self, work: Callable[[Connection], T]) -> T:
        """Return what ``work`` returns, its changes committed.

        Raises:
            DatabaseUnavailableError: the database does not answer; whether it was done is not known.
        """

        def writing() -> T:
            self._require_file()
            with self._database.begin() as connection:
                return work(connection)

        return await self._sql.call(writing, WRITE_S)

    def _require_file(self) -> None:
        """Refuse to go on with a file of SQLite's that only open connections know: it ends with them."""
        if self._file is not None and not self._file.exists():
            self._database.close()  # what comes in its place is opened anew
            raise DatabaseUnavailableError(
                f"the file {self._file} is not there; bring it back, or make a new one with `alexq migrate`"
            )

    async def broker(self, work: Callable[[Redis], T]) -> T:
        """Return what ``work`` asks of Redis.

        Raises:
            BrokerUnavailableError: Redis does not answer in time.
        """

        def asking() -> T:
            try:
                return work(self._redis)
            except (RedisError, OSError) as error:
                raise BrokerUnavailableError(f"Redis does not answer: {str(error).rstrip('.')}") from error

        return await self._broker.call(asking, 2 * BROKER_S)

    async def files(self, work: Callable[[], T], limit_s: float = FILES_S) -> T:
        """Return what ``work`` makes of files.

        Raises:
            ImageStoreError: that takes too long.
        """
        return await self._files.call(work, limit_s)


def _sqlite_file(database_url: str) -> Path | None:
    url = make_url(database_url)
    return Path(url.database) if url.get_backend_name() == "sqlite" and url.database else None


async def or_error(answer: Awaitable[T]) -> T | AlexqError:
    """Return the answer, or what was raised in its place: a panel then says so."""
    try:
        return await answer
    except AlexqError as error:
        return error
