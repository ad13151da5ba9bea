"""Requests that are repeated under an ``Idempotency-Key``: which are in flight, which are the same."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from alexq_producer.gateway.entries import Remote
from alexq_producer.gateway.wish import Item, Wish
from alexq_producer.submission import Rejection
from alexq_schema.db.accept import NewJob
from alexq_schema.db.idempotency import MAX_KEY_LENGTH
from alexq_schema.errors import IdempotencyKeyBusyError, ImageUrlError, RequestError
from alexq_schema.job import Job


class KeysInUse:
    """The idempotency keys whose first request this gateway serves now; belongs to the event loop."""

    def __init__(self) -> None:
        self._held: set[tuple[str | None, str]] = set()

    @contextmanager
    def hold(self, tenant: str | None, key: str | None) -> Iterator[None]:
        """Hold a key while its request is served.

        Raises:
            IdempotencyKeyBusyError: it is held.
            RequestError: it is no key.
        """
        if key is None:
            yield
            return
        if not 0 < len(key) <= MAX_KEY_LENGTH or not (key.isascii() and key.isprintable()):
            raise RequestError(f"Idempotency-Key: give 1 to {MAX_KEY_LENGTH} printable ASCII characters")
        if (tenant, key) in self._held:
            raise IdempotencyKeyBusyError(
                f"Idempotency-Key {key!r}: the first request with it is still being served; "
                "send this one again"
            )
        self._held.add((tenant, key))
        try:
            yield
        finally:
            self._held.discard((tenant, key))


def fingerprint_of(items: Sequence[Item], urls: Sequence[str], wish: Wish) -> str:
    """Return what stands for all that was asked: of an image at a URL the URL, whatever it gave."""
    asked: list[Any] = [wish.lane, wish.deadline_s, wish.skips_rejected]
    asked += [] if wish.notice is None else [str(wish.notice.webhook_id)]
    asked += [] if wish.model is None else ["model", wish.model]
    asked += [] if wish.options is None else [wish.options.stored()]
    for item, url in zip(items, urls, strict=True):
        if url or isinstance(item, Remote):
            asked.append([item.source, url])
        else:
            asked.append([item.source, item.error.code if isinstance(item, Rejection) else item.image_key])
    return hashlib.sha256(json.dumps(asked).encode()).hexdigest()


def refused_then(items: Sequence[Item], jobs: Sequence[Job]) -> list[Rejection]:
    """Return what was refused of a request whose jobs are known: those of its items that have none."""
    accepted = Counter(job.source for job in jobs)
    accepted.subtract(item.source for item in items if isinstance(item, NewJob))
    refused = []
    for item in items:
        if isinstance(item, Rejection):
            refused.append(item)
        elif isinstance(item, Remote):
            accepted[item.source] -= 1
            if accepted[item.source] < 0:
                refused.append(
                    Rejection(item.source, ImageUrlError(f"{item.source}: refused when it was fetched"))
                )
    return refused
