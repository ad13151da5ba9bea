"""Images that a request names by URL, fetched before it is accepted: a few at a time, in the order asked.

The threads here are the gateway's; each fetch has one deadline and ends by it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

from alexq_producer.gateway.bodies import spool
from alexq_producer.gateway.entries import Entry, Remote, Upload
from alexq_schema.errors import ImageUrlError, OutwardRefusedError
from alexq_schema.outward import Outward
from alexq_schema.settings import Settings

FETCH_THREADS: Final = 16
"""Fetches at a time, of all requests."""

AHEAD: Final = 4
"""Fetches of one request at a time."""


class Fetcher:
    """Fetches from the hosts that ``ALEXQ_IMAGE_URL_HOSTS`` allows."""

    def __init__(self, settings: Settings) -> None:
        """Prepare; nothing is fetched.

        Raises:
            SettingsError: an allowed host is malformed.
        """
        hosts = [host.strip() for host in settings.image_url_hosts.split(",") if host.strip()]
        self._outward = (
            Outward(
                hosts=hosts,
                timeout_s=settings.image_url_timeout_s,
                allow_private=settings.image_url_private,
            )
            if hosts
            else None
        )
        self._max_bytes = settings.max_image_bytes
        self._threads = ThreadPoolExecutor(FETCH_THREADS, "alexq-fetch")

    def ahead(
        self, entries: Iterable[Entry], *, fetches: bool = True
    ) -> Generator[tuple[Entry, Future[Upload] | None]]:
        """Yield each entry, in order, with the fetch of those that are remote, if it is to fetch.

        The next entries are taken from the stream while a fetch goes on only as long as they are remote
        too: an image that came with the request is never kept in memory beside another.
        """
        waiting: deque[tuple[Entry, Future[Upload] | None]] = deque()
        try:
            for entry in entries:
                fetch = None
                if fetches and isinstance(entry, Remote):
                    fetch = self._threads.submit(self._fetch, entry)
                waiting.append((entry, fetch))
                while waiting and (fetch is None or len(waiting) >= AHEAD or _is_ready(waiting[0][1])):
                    yield waiting.popleft()
            while waiting:
                yield waiting.popleft()
        finally:
            for entry, fetch in waiting:
                if isinstance(entry, Upload):
                    entry.file.close()
                if fetch is not None and not fetch.cancel():
                    fetch.add_done_callback(_discard)

    def _fetch(self, remote: Remote) -> Upload:
        if self._outward is None:
            raise ImageUrlError(
                f"{remote.source}: this gateway fetches no images; send the image itself, or have "
                "ALEXQ_IMAGE_URL_HOSTS set to the hosts that images may come from"
            )
        file = spool()
        try:
            size = self._outward.get(remote.url, max_bytes=self._max_bytes, into=file)
            file.seek(0)
        except BaseException as error:
            file.close()
            if isinstance(error, OutwardRefusedError):
                raise ImageUrlError(f"{remote.source}: {error}") from error
            raise
        return Upload(remote.source, file, size)

    def close(self) -> None:
        """Begin no fetch any more."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        if self._outward is not None:
            self._outward.close()


def _is_ready(fetch: Future[Upload] | None) -> bool:
    return fetch is None or fetch.done()


def _discard(fetch: Future[Upload]) -> None:
    if fetch.exception() is None:
        fetch.result().file.close()
