"""From the images of a request to accepted jobs: stored, committed, known by their idempotency key."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager, closing

from alexq_producer import pins
from alexq_producer.gateway.admission import Admission, Grant
from alexq_producer.gateway.bodies import MEMORY_BYTES
from alexq_producer.gateway.core import Core
from alexq_producer.gateway.entries import Entry, Reference, Remote, Upload
from alexq_producer.gateway.fetching import Fetcher
from alexq_producer.gateway.metrics import Metrics
from alexq_producer.gateway.repetition import fingerprint_of, refused_then
from alexq_producer.gateway.wish import Accepted, Item, Wish
from alexq_producer.submission import Rejection
from alexq_schema.db import idempotency, pages, queries, webhooks
from alexq_schema.db.accept import NewJob, NewSubmission
from alexq_schema.db.idempotency import Claim
from alexq_schema.errors import (
    IdempotencyKeyReusedError,
    ImageError,
    ImageNotFoundError,
    OutwardUnavailableError,
    RequestTooLargeError,
    UsageError,
    WebhookNotFoundError,
)
from alexq_schema.ids import new_id, tagged_id
from alexq_schema.images import HEAD_BYTES, Staging, check_head
from alexq_schema.job import Job, JobState, Timings
from alexq_schema.options import Options


class Intake:
    """Accepts images."""

    def __init__(self, core: Core, admission: Admission, metrics: Metrics) -> None:
        """Prepare.

        Raises:
            SettingsError: a host in ``ALEXQ_IMAGE_URL_HOSTS`` is malformed.
        """
        self._core = core
        self._admission = admission
        self._metrics = metrics
        self._fetcher = Fetcher(core.settings)

    def close(self) -> None:
        """Fetch nothing any more."""
        self._fetcher.close()

    def admit(self, wish: Wish) -> AbstractAsyncContextManager[Grant]:
        """Return a context in which the request may be taken; raises as :meth:`Admission.admit`."""
        return self._admission.admit(wish.tenant, wish.at, lambda: self._earlier(wish) is not None)

    def take(self, entries: Iterable[Entry], wish: Wish, grant: Grant, *, max_images: int) -> Accepted:
        """Accept the images, all or, where the wish says so, those that are not refused.

        It blocks, and runs in a pool of the core.

        Raises:
            ImageError: an image was refused; names it. Nothing was accepted.
            RequestTooLargeError: there are more than ``max_images``. Nothing was accepted.
            QuotaExceededError: the tenant may not have so much. Nothing was accepted.
            UsageError: there is none.
            WebhookNotFoundError: there is no such webhook.
            PinnedModelError: there is no such model version.
            IdempotencyKeyReusedError: the key stands for other images.
            OutwardUnavailableError: an image's URL gives nothing now. Nothing was accepted.
            ImageStoreError, DatabaseUnavailableError: nothing was accepted.
        """
        try:
            accepted = self._take(entries, wish, grant, max_images)
        except ImageError as error:
            self._metrics.refused(error.code)
            raise
        for rejection in accepted.rejected:
            self._metrics.refused(rejection.error.code)
        return accepted

    def _take(self, entries: Iterable[Entry], wish: Wish, grant: Grant, max_images: int) -> Accepted:
        earlier = self._earlier(wish)
        with self._core.images.staging() as staging:
            # What a key stands for already is not fetched again: what is there by now does not matter.
            taken = list(self._store(entries, wish, grant, staging, max_images, fetches=earlier is None))
            if not taken:
                raise UsageError("nothing to submit: the request holds no image")
            items = self._look_up([item for item, _ in taken], wish, grant, staging)
            new = [item for item in items if isinstance(item, NewJob)]
            rejected = [item for item in items if isinstance(item, Rejection)]
            fingerprint = fingerprint_of(items, [url for _, url in taken], wish)
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
                model=wish.model,
                options=Options.reusing(wish.options) if wish.reuse else wish.options,
                queue=wish.queue,
            )
            self._require_webhook(wish)
            if wish.model is not None:
                pins.require_known(wish.model, self._core.settings, self._core.database)
            claim = wish.key and Claim(wish.tenant or "", wish.key, fingerprint, submission.submission_id)
            while not self._core.acceptance.accept(submission, staging, claim or None):
                if earlier := self._earlier(wish):  # another gateway was first
                    return self._replayed(earlier, fingerprint, items)
        grant.is_committed = True
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
        self,
        entries: Iterable[Entry],
        wish: Wish,
        grant: Grant,
        staging: Staging,
        max_images: int,
        *,
        fetches: bool,
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
                    yield self._taken(entry, fetch, grant, staging), url
                except (ImageError, OutwardUnavailableError) as error:
                    if not wish.skips_rejected:
                        raise
                    yield Rejection(entry.source, error), url

    def _taken(self, entry: Entry, fetch: Future[Upload] | None, grant: Grant, staging: Staging) -> Item:
        if isinstance(entry, Upload):
            upload = entry
        elif fetch is None:
            return entry
        else:
            upload = fetch.result()
        with upload.file:
            return self._stored(upload, grant, staging)

    def _stored(self, upload: Upload, grant: Grant, staging: Staging) -> NewJob:
        limit = self._core.settings.max_image_bytes
        head = upload.file.read(HEAD_BYTES)
        check_head(head, upload.image_bytes, upload.source, limit)
        grant.take(upload.image_bytes)
        if upload.image_bytes <= MEMORY_BYTES:
            key = staging.add(head + upload.file.read())  # one file less to open: a quarter of the cost
        else:
            key = staging.add_file(upload.file)
        return NewJob(new_id(), upload.source, key, upload.image_bytes)

    def _look_up(self, items: Sequence[Item], wish: Wish, grant: Grant, staging: Staging) -> list[Item]:
        keys = {item.image_key for item in items if isinstance(item, Reference)}
        if not keys:
            return list(items)
        with self._core.database.read() as connection:
            visible = pages.visible_images(connection, wish.tenant, keys)
        found: list[Item] = []
        for item in items:
            if isinstance(item, Reference):
                try:
                    found.append(self._found(item, grant, staging, is_visible=item.image_key in visible))
                except ImageError as error:
                    if not wish.skips_rejected:
                        raise
                    found.append(Rejection(item.source, error))
            else:
                found.append(item)
        return found

    def _found(self, reference: Reference, grant: Grant, staging: Staging, *, is_visible: bool) -> NewJob:
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
        return self._stored(Upload(reference.source, io.BytesIO(data), len(data)), grant, staging)

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
        return Accepted(earlier.submission_id, jobs, refused_then(items, jobs), is_replay=True)


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
