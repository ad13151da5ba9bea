"""Submitting images: stored once by content, made rows, then published."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import Literal, Self, Unpack
from uuid import UUID

from celery import Celery

from alexq_producer import pins, sources
from alexq_producer.acceptance import Acceptance
from alexq_producer.actor import whoami
from alexq_producer.announcements import Announcements
from alexq_producer.sources import Image
from alexq_producer.submission import Reader, Rejection, Submission
from alexq_schema import queues, tracing
from alexq_schema.celery_settings import celery_config
from alexq_schema.db import jobs, queries, workers
from alexq_schema.db.accept import NewJob, NewSubmission
from alexq_schema.db.session import Database
from alexq_schema.errors import ImageError, JobNotFoundError, UsageError
from alexq_schema.ids import new_id, new_tag, tagged_id
from alexq_schema.images import Staging, check_image, open_image_store
from alexq_schema.job import Job, JobState
from alexq_schema.names import DEFAULT_QUEUE, Lane
from alexq_schema.options import OptionFields, Options
from alexq_schema.settings import Settings

MAX_DEADLINE_S = 10 * 365 * 86_400.0
"""Every database can still add it to the time of day."""


class Producer:
    """Submits images and reads results, straight through database, image store and broker.

    Threads may share one. Use it as a context manager, or call :meth:`close`.
    """

    def __init__(self, settings: Settings | None = None) -> None:
        """Prepare; connections are made on first use.

        Args:
            settings: by default the ``ALEXQ_`` environment, else the embedded stack that ``alexq up`` runs.

        Raises:
            StackNotRunningError: no settings were given and no embedded stack runs.
            SettingsError: a setting is missing or malformed.
        """
        self.settings = settings if settings is not None else Settings.connected()
        self._database = Database(self.settings.database_url)
        self._images = open_image_store(self.settings.images_url)
        self._tag = new_tag()
        self._reader = Reader(self._database)
        self._announcements = Announcements(
            self.settings.broker_url,
            self.settings.publish_timeout_s,
            own=tagged_id(self._tag),
            read=self._reader.finished,
        )
        self._celery = Celery("alexq-producer", set_as_current=False)
        self._celery.conf.update(celery_config(self.settings))
        self._acceptance = Acceptance(self._images, self._database, self._celery)

    def submit(
        self,
        images: Image | Iterable[Image],
        *,
        rejected: Literal["raise", "skip"] = "raise",
        deadline_s: float | None = None,
        lane: Lane | None = None,
        queue: str = DEFAULT_QUEUE,
        model: str | None = None,
        **options: Unpack[OptionFields],
    ) -> Submission:
        """Hand in one image or many; returns when they are accepted, that is, on disk.

        An iterable is read as it comes, one image in memory at a time.

        Args:
            images: encoded bytes, a path, a binary file object, or an iterable of those.
            rejected: what to do with an input that is empty, too large, of no accepted type or not to
                be read: ``raise`` stores nothing of the whole call, ``skip`` lists it in ``rejected``.
            deadline_s: a job that no worker has begun by then, in seconds from now, expires; None waits
                for ever.
            lane: ``interactive`` jobs go before all ``bulk`` ones; by default one image is interactive
                and many are bulk.
            queue: whose workers do them (``alexq worker --queue``); by default the queue without a name.
            model: ``name/version`` that they must be done with; by default whichever is active.
            options: ``crops``, ``top_k``, ``min_probability``, ``temperature``, ``reuse``: see
                :class:`alexq_schema.options.Options`.

        Raises:
            ImageError: an input was rejected; names it.
            PinnedModelError: there is no such model version.
            UsageError: there was no image, the deadline is not within the next ten years, no queue may be
                called so, or an option makes no sense.
            ImageStoreError, DatabaseUnavailableError: nothing was accepted; submit again.
        """
        if deadline_s is not None and not 0 < deadline_s <= MAX_DEADLINE_S:
            raise UsageError(
                f"deadline_s={deadline_s}: give the seconds from now, more than 0 and at most "
                f"{MAX_DEADLINE_S:.0f} (ten years), or None to wait for ever"
            )
        how, queue = Options.of(options), queues.require(queue)
        if model is not None:
            pins.require_known(model, self.settings, self._database)
        lane = lane or (Lane.INTERACTIVE if sources.is_one(images) else Lane.BULK)
        with tracing.span("submit"), self._images.staging() as staging:
            new_jobs, rejections = self._take_in(sources.each(images), staging, skip=rejected == "skip")
            submission = NewSubmission(
                tagged_id(self._tag), new_jobs, lane, deadline_s, model=model, options=how, queue=queue
            )
            if new_jobs:
                self._acceptance.accept(submission, staging)
        return self._submission(submission, rejections)

    def _submission(self, new: NewSubmission, rejections: Sequence[Rejection] = ()) -> Submission:
        return Submission(
            new.submission_id,
            [job.job_id for job in new.jobs],
            rejected=rejections,
            reader=self._reader,
            announcements=self._announcements,
        )

    def _take_in(
        self, images: Iterator[Image], staging: Staging, *, skip: bool
    ) -> tuple[list[NewJob], list[Rejection]]:
        limit = self.settings.max_image_bytes
        new_jobs: list[NewJob] = []
        rejections: list[Rejection] = []
        for position, image in enumerate(images):
            source = sources.name_of(image, position)
            try:
                data = sources.read(image, source, limit)
                check_image(data, source, limit)
            except ImageError as error:
                if not skip:
                    raise
                rejections.append(Rejection(source, error))
            else:
                new_jobs.append(NewJob(new_id(), source, staging.add(data), len(data)))
        if not new_jobs and not rejections:
            raise UsageError("nothing to submit: the call held no image")
        return new_jobs, rejections

    def classify(
        self,
        image: Image,
        timeout_s: float = 60.0,
        *,
        queue: str = DEFAULT_QUEUE,
        model: str | None = None,
        **options: Unpack[OptionFields],
    ) -> Job:
        """Submit one image and return its finished job.

        Args:
            queue, model, options: as for :meth:`submit`.

        Raises:
            WaitTimeoutError: it is unfinished after ``timeout_s`` seconds; it goes on.
            ImageError, ImageStoreError, DatabaseUnavailableError: as :meth:`submit`.
        """
        if not sources.is_one(image):
            raise UsageError("classify takes one image; use submit for many")
        how, queue = Options.of(options), queues.require(queue)
        if model is not None:
            pins.require_known(model, self.settings, self._database)
        with tracing.span("classify"), self._images.staging() as staging:
            new_jobs, _ = self._take_in(iter([image]), staging, skip=False)
            new = NewSubmission(
                tagged_id(self._tag), new_jobs, Lane.INTERACTIVE, model=model, options=how, queue=queue
            )
            # Whoever listens before there is a job needs not ask whether it has ended already.
            with self._announcements.of(new.submission_id, [new_jobs[0].job_id]) as listener:
                self._acceptance.accept(new, staging)
                return self._submission(new).wait_with(listener, timeout_s)[0]

    def submission(self, submission_id: UUID) -> Submission:
        """Return an earlier submission, to wait for it or read its results.

        Raises:
            JobNotFoundError: there is no such submission.
        """
        submission = Submission.load(submission_id, self._reader, self._announcements)
        if submission is None:
            raise JobNotFoundError(f"there is no submission {submission_id}")
        return submission

    def submission_of_job(self, job_id: UUID) -> Submission:
        """Return one job as something to wait on; it may have come through Celery's own door.

        Raises:
            JobNotFoundError: there is no such job.
        """
        [job] = self.jobs([job_id])
        return Submission(
            job.submission_id or job_id,
            [job_id],
            rejected=(),
            reader=self._reader,
            announcements=self._announcements,
        )

    def jobs(self, job_ids: Sequence[UUID]) -> list[Job]:
        """Return these jobs as they stand now, in this order.

        Raises:
            JobNotFoundError: names those that do not exist.
        """
        with self._database.read() as connection:
            found = queries.by_id(connection, job_ids)
        missing = set(job_ids) - {job.job_id for job in found}
        if missing:
            raise JobNotFoundError(f"there is no job {', '.join(sorted(map(str, missing)))}")
        return found

    def cancel(self, job_ids: Sequence[UUID]) -> list[UUID]:
        """Cancel those that are unfinished, and return them; a running job's result is discarded.

        Each is recorded in ``job_events``, with the user and host of this process.
        """
        with self._database.begin() as connection:
            cancelled = jobs.cancel(connection, job_ids, actor=whoami())
        self._announcements.announce(cancelled)
        return [job_id for _, job_id in cancelled]

    def redrive(
        self,
        job_ids: Sequence[UUID] | None = None,
        *,
        error_code: str | None = None,
        submission_id: UUID | None = None,
        actor: str | None = None,
    ) -> list[UUID]:
        """Queue the dead jobs that match every filter given again, with fresh attempts, and return them.

        Each is recorded in ``job_events`` with what it was dead of. Jobs that are not dead are left alone.

        Args:
            job_ids: None means every dead job.
            actor: who does it, for the record; by default the user and host of this process.
        """
        chunks = [None] if job_ids is None else jobs.chunks(job_ids)
        redriven: list[UUID] = []
        for chunk in chunks:
            while some := self._redrive_some(chunk, error_code, submission_id, actor or whoami()):
                redriven += some
        return redriven  # a worker's sweeper publishes them within seconds

    def _redrive_some(
        self, job_ids: Sequence[UUID] | None, error_code: str | None, submission_id: UUID | None, actor: str
    ) -> list[UUID]:
        with self._database.begin() as connection:
            return jobs.redrive(
                connection, job_ids, error_code=error_code, submission_id=submission_id, actor=actor
            )

    def workers_alive(self, queue: str | None = None) -> int:
        """Return how many workers, or workers of one queue, show progress now."""
        with self._database.read() as connection:
            alive = workers.alive(connection, self.settings.silent_after_s)
        return sum(queue in (None, worker.queue) for worker in alive)

    def newest(
        self,
        *,
        state: JobState | None = None,
        label: str | None = None,
        submission_id: UUID | None = None,
        limit: int = 50,
    ) -> list[Job]:
        """Return jobs, newest first, that match every filter given."""
        with self._database.read() as connection:
            return queries.newest(
                connection, state=state, label=label, submission_id=submission_id, limit=limit
            )

    def close(self) -> None:
        """Close every connection; submitted jobs go on."""
        self._celery.close()
        self._announcements.close()
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
