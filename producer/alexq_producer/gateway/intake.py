"""From the images of a request to accepted jobs: stored, committed, known by their idempotency key."""

from __future__ import annotations

import hashlib
import io
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from alexq_producer.gateway.bodies import MEMORY_BYTES
from alexq_producer.gateway.core import Core
from alexq_producer.gateway.entries import Entry, Reference, Remote, Upload
from alexq_producer.gateway.fetching import Fetcher
from alexq_producer.submission import Rejection
from alexq_schema.db import idempotency, pages, queries, webhooks
from alexq_schema.db.accept import NewJob, NewSubmission
from alexq_schema.db.deliveries import Notice
from alexq_schema.db.idempotency import MAX_KEY_LENGTH, Claim
from alexq_schema.errors import (
    IdempotencyKeyBusyError,
    IdempotencyKeyReusedError,
    ImageError,
    ImageNotFoundError,
    ImageUrlError,
    OutwardUnavailableError,
    RequestError,
    RequestTooLargeError,
    UsageError,
    WebhookNotFoundError,
)
from alexq_schema.ids import new_id, tagged_id
from alexq_schema.images import HEAD_BYTES, Staging, check_head
from alexq_schema.job import Job, JobState, Timings
from alexq_schema.names import Lane


@dataclass(frozen=True, slots=True)
class Wish:
    """How a request wants its images treated."""

    tenant: str | None
    lane: Lane
    deadline_s: float | None
    skips_rejected: bool
    """Whether images that are refused are listed, the others accepted."""
    key: str | None
    """The ``Idempotency-Key``."""
    notice: Notice | None = None
    """Which webhook is told when all has ended."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """What became of a request's images."""

    submission_id: UUID | None
    """None where all were refused, and listed."""
    jobs: list[Job]
    """As they were when accepted, or, for a repeated request, as they are."""
    rejected: list[Rejection]
    is_replay: bool = False
    """The key stood for this submission already."""


Item = NewJob | Reference | Remote | Rejection
"""What has become of an entry; references are still to be looked up, and what is remote not fetched."""


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


class Intake:
    """Accepts images; every method blocks and runs in a pool of the core."""

    def __init__(self, core: Core) -> None:
        """Prepare.

        Raises:
            SettingsError: a host in ``ALEXQ_IMAGE_URL_HOSTS`` is malformed.
        """
        self._core = core
        self._fetcher = Fetcher(core.settings)

    def close(self) -> None:
        """Fetch nothing any more."""
        self._fetcher.close()

    def take(self, entries: Iterable[Entry], wish: Wish, *, max_images: int) -> Accepted:
        """Accept the images, all or, where the wish says so, those that are not refused.

        Raises:
            ImageError: an image was refused; names it. Nothing was accepted.
            RequestTooLargeError: there are more than ``max_images``. Nothing was accepted.
            UsageError: there is none.
            WebhookNotFoundError: there is no such webhook.
            IdempotencyKeyReusedError: the key stands for other images.
            OutwardUnavailableError: an image's URL gives nothing now. Nothing was accepted.
            ImageStoreError, DatabaseUnavailableError: nothing was accepted.
        """
        earlier = self._earlier(wish)
        with self._core.images.staging() as staging:
            # What a key stands for already is not fetched again: what is there by now does not matter.
            taken = list(self._store(entries, wish, staging, max_images, fetches=earlier is None))
            if not taken:
                raise UsageError("nothing to submit: the request holds no image")
            items = self._look_up([item for item, _ in taken], wish, staging)
            new = [item for item in items if isinstance(item, NewJob)]
            rejected = [item for item in items if isinstance(item, Rejection)]
            fingerprint = _fingerprint(items, [url for _, url in taken], wish)
            if earlier is not None:
                return self._replayed(earlier, fingerprint, items)
            if not new:
                return Accepted(None, [], rejected)
            submission = NewSubmission(
                tagged_id(self._core.tag),
                new,
                wish.lane,
                wish.deadline_s,
                tenant=wish.tenant,
                notice=wish.notice,
            )
            self._require_webhook(wish)
            claim = wish.key and Claim(wish.tenant or "", wish.key, fingerprint, submission.submission_id)
            while not self._core.acceptance.accept(submission, staging, claim or None):
                if earlier := self._earlier(wish):  # another gateway was first
                    return self._replayed(earlier, fingerprint, items)
        return Accepted(submission.submission_id, [_as_job(job, submission) for job in new], rejected)

    def _require_webhook(self, wish: Wish) -> None:
        if wish.notice is None:
            return
        with self._core.database.read() as connection:
            if webhooks.find(connection, wish.tenant, wish.notice.webhook_id) is None:
                raise WebhookNotFoundError(
                    f"there is no webhook {wish.notice.webhook_id}: nothing was accepted"
                )

    def _store(
        self, entries: Iterable[Entry], wish: Wish, staging: Staging, max_images: int, *, fetches: bool
    ) -> Iterator[tuple[Item, str]]:
        """Yield what becomes of each entry, and its URL where it has one."""
        with closing(self._fetcher.ahead(entries, fetches=fetches)) as ahead:
            for number, (entry, fetch) in enumerate(ahead):
                if number == max_images:
                    raise RequestTooLargeError(
                        f"more than {max_images:,} images in one request (ALEXQ_MAX_SUBMISSION_IMAGES): "
                        "send it in parts"
                    )
                url = entry.url if isinstance(entry, Remote) else ""
                try:
                    yield self._taken(entry, fetch, staging), url
                except (ImageError, OutwardUnavailableError) as error:
                    if not wish.skips_rejected:
                        raise
                    yield Rejection(entry.source, error), url

    def _taken(self, entry: Entry, fetch: Future[Upload] | None, staging: Staging) -> Item:
        if isinstance(entry, Upload):
            upload = entry
        elif fetch is None:
            return entry
        else:
            upload = fetch.result()
        with upload.file:
            return self._stored(upload, staging)

    def _stored(self, upload: Upload, staging: Staging) -> NewJob:
        limit = self._core.settings.max_image_bytes
        head = upload.file.read(HEAD_BYTES)
        check_head(head, upload.image_bytes, upload.source, limit)
        if upload.image_bytes <= MEMORY_BYTES:
            key = staging.add(head + upload.file.read())  # one file less to open: a quarter of the cost
        else:
            key = staging.add_file(upload.file)
        return NewJob(new_id(), upload.source, key, upload.image_bytes)

    def _look_up(self, items: Sequence[Item], wish: Wish, staging: Staging) -> list[Item]:
        keys = {item.image_key for item in items if isinstance(item, Reference)}
        if not keys:
            return list(items)
        with self._core.database.read() as connection:
            visible = pages.visible_images(connection, wish.tenant, keys)
        found: list[Item] = []
        for item in items:
            if isinstance(item, Reference):
                try:
                    found.append(self._found(item, staging, is_visible=item.image_key in visible))
                except ImageError as error:
                    if not wish.skips_rejected:
                        raise
                    found.append(Rejection(item.source, error))
            else:
                found.append(item)
        return found

    def _found(self, reference: Reference, staging: Staging, *, is_visible: bool) -> NewJob:
        absent = ImageNotFoundError(
            f"{reference.source}: there is no image {reference.image_key} any more, or it is not yours; "
            "send the image itself"
        )
        if not is_visible:
            raise absent
        try:
            data = self._core.images.get(reference.image_key)
        except ImageNotFoundError as error:
            raise absent from error
        return self._stored(Upload(reference.source, io.BytesIO(data), len(data)), staging)

    def _earlier(self, wish: Wish) -> Claim | None:
        """Return what the wish's key stands for already, or None where it is new or there is none."""
        if wish.key is None:
            return None
        with self._core.database.read() as connection:
            return idempotency.find(connection, wish.tenant or "", wish.key)

    def _replayed(self, earlier: Claim, fingerprint: str, items: Sequence[Item]) -> Accepted:
        """Return the submission that the key stands for.

        Raises:
            IdempotencyKeyReusedError: it was another request.
        """
        if earlier.fingerprint != fingerprint:
            raise IdempotencyKeyReusedError(
                f"Idempotency-Key {earlier.key!r} belongs to an earlier request with other images or "
                "options; use a new key for a new request"
            )
        with self._core.database.read() as connection:
            job_ids = queries.submission_job_ids(connection, earlier.submission_id) or []
            jobs = queries.by_id(connection, job_ids)
        return Accepted(earlier.submission_id, jobs, _refused_then(items, jobs), is_replay=True)


def _fingerprint(items: Sequence[Item], urls: Sequence[str], wish: Wish) -> str:
    """Return what stands for all that was asked: of an image at a URL the URL, whatever it gave."""
    asked: list[Any] = [wish.lane, wish.deadline_s, wish.skips_rejected]
    asked += [] if wish.notice is None else [str(wish.notice.webhook_id)]
    for item, url in zip(items, urls, strict=True):
        if url or isinstance(item, Remote):
            asked.append([item.source, url])
        else:
            asked.append([item.source, item.error.code if isinstance(item, Rejection) else item.image_key])
    return hashlib.sha256(json.dumps(asked).encode()).hexdigest()


def _refused_then(items: Sequence[Item], jobs: Sequence[Job]) -> list[Rejection]:
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


def _as_job(job: NewJob, submission: NewSubmission) -> Job:
    return Job(
        job_id=job.job_id,
        submission_id=submission.submission_id,
        source=job.source,
        state=JobState.QUEUED,
        attempt=0,
        image_key=job.image_key,
        predictions=[],
        model=None,
        error=None,
        timings=Timings(),
    )
