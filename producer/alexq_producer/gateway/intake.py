"""From the images of a request to accepted jobs: stored, committed, known by their idempotency key."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any
from uuid import UUID

from alexq_producer.gateway.admission import Admission, Grant
from alexq_producer.gateway.bodies import MEMORY_BYTES
from alexq_producer.gateway.core import Core
from alexq_producer.gateway.entries import Entry, Reference, Upload
from alexq_producer.gateway.metrics import Metrics
from alexq_producer.submission import Rejection
from alexq_schema.db import idempotency, pages, queries
from alexq_schema.db.accept import NewJob, NewSubmission
from alexq_schema.db.idempotency import MAX_KEY_LENGTH, Claim
from alexq_schema.errors import (
    IdempotencyKeyBusyError,
    IdempotencyKeyReusedError,
    ImageError,
    ImageNotFoundError,
    RequestError,
    RequestTooLargeError,
    UsageError,
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
    """Accepts images."""

    def __init__(self, core: Core, admission: Admission, metrics: Metrics) -> None:
        self._core = core
        self._admission = admission
        self._metrics = metrics

    def admit(self, wish: Wish) -> AbstractAsyncContextManager[Grant]:
        """Return a context in which the request may be taken; raises as :meth:`Admission.admit`."""
        return self._admission.admit(wish.tenant, wish.lane, partial(self._is_known, wish))

    def take(self, entries: Iterable[Entry], wish: Wish, grant: Grant, *, max_images: int) -> Accepted:
        """Accept the images, all or, where the wish says so, those that are not refused.

        It blocks, and runs in a pool of the core.

        Raises:
            ImageError: an image was refused; names it. Nothing was accepted.
            RequestTooLargeError: there are more than ``max_images``. Nothing was accepted.
            QuotaExceededError: the tenant may not have so much. Nothing was accepted.
            UsageError: there is none.
            IdempotencyKeyReusedError: the key stands for other images.
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
        with self._core.images.staging() as staging:
            items = list(self._store(entries, wish, grant, staging, max_images))
            items = self._look_up(items, wish, grant, staging)
            new = [item for item in items if isinstance(item, NewJob)]
            rejected = [item for item in items if isinstance(item, Rejection)]
            if not items:
                raise UsageError("nothing to submit: the request holds no image")
            if not new:
                return Accepted(None, [], rejected)
            submission = NewSubmission(
                tagged_id(self._core.tag), new, wish.lane, wish.deadline_s, tenant=wish.tenant
            )
            claim = self._claim(submission, items, wish)
            if claim is not None and (earlier := self._earlier(claim, rejected)):
                return earlier
            while not self._core.acceptance.accept(submission, staging, claim):
                assert claim is not None  # without a key nothing can have been first
                if earlier := self._earlier(claim, rejected):
                    return earlier
        grant.is_committed = True
        return Accepted(submission.submission_id, [_as_job(job, submission) for job in new], rejected)

    def _store(
        self, entries: Iterable[Entry], wish: Wish, grant: Grant, staging: Staging, max_images: int
    ) -> Iterator[NewJob | Reference | Rejection]:
        for number, entry in enumerate(entries):
            if number == max_images:
                raise RequestTooLargeError(
                    f"more than {max_images:,} images in one request (ALEXQ_MAX_SUBMISSION_IMAGES): "
                    "send it in parts"
                )
            if isinstance(entry, Reference):
                yield entry
                continue
            with entry.file:
                try:
                    yield self._stored(entry, grant, staging)
                except ImageError as error:
                    if not wish.skips_rejected:
                        raise
                    yield Rejection(entry.source, error)

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

    def _look_up(
        self, items: Sequence[NewJob | Reference | Rejection], wish: Wish, grant: Grant, staging: Staging
    ) -> list[NewJob | Reference | Rejection]:
        keys = {item.image_key for item in items if isinstance(item, Reference)}
        if not keys:
            return list(items)
        with self._core.database.read() as connection:
            visible = pages.visible_images(connection, wish.tenant, keys)
        found: list[NewJob | Reference | Rejection] = []
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

    def _claim(
        self, submission: NewSubmission, items: Sequence[NewJob | Reference | Rejection], wish: Wish
    ) -> Claim | None:
        if wish.key is None:
            return None
        asked: list[Any] = [wish.lane, wish.deadline_s, wish.skips_rejected]
        asked += [
            [item.source, item.image_key if isinstance(item, NewJob) else item.error.code]
            for item in items
            if not isinstance(item, Reference)
        ]
        fingerprint = hashlib.sha256(json.dumps(asked).encode()).hexdigest()
        return Claim(wish.tenant or "", wish.key, fingerprint, submission.submission_id)

    def _is_known(self, wish: Wish) -> bool:
        if wish.key is None:
            return False
        with self._core.database.read() as connection:
            return idempotency.find(connection, wish.tenant or "", wish.key) is not None

    def _earlier(self, claim: Claim, rejected: list[Rejection]) -> Accepted | None:
        """Return what the key stands for already, or None where it is new."""
        with self._core.database.read() as connection:
            known = idempotency.find(connection, claim.tenant, claim.key)
            if known is None:
                return None
            if known.fingerprint != claim.fingerprint:
                raise IdempotencyKeyReusedError(
                    f"Idempotency-Key {claim.key!r} belongs to an earlier request with other images or "
                    "options; use a new key for a new request"
                )
            job_ids = queries.submission_job_ids(connection, known.submission_id) or []
            jobs = queries.by_id(connection, job_ids)
        return Accepted(known.submission_id, jobs, rejected, is_replay=True)


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
