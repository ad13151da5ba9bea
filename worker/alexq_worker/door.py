"""Celery's own door: a plain Celery client sends the image; here it becomes an accepted job.

One thread serves everyone who has come meanwhile: one sync of the image store, one transaction.
"""

from __future__ import annotations

import base64
import queue
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from uuid import UUID

from alexq_schema.db import accept, queries
from alexq_schema.db.accept import NewJob
from alexq_schema.db.session import Database
from alexq_schema.errors import AlexqError, JobNotFoundError, MessageError, UnavailableError
from alexq_schema.images import ImageStore, Staging, check_image
from alexq_schema.job import Job
from alexq_schema.messages import ClassifyImage
from alexq_schema.names import Lane
from alexq_worker.pipeline.pipeline import Pipeline
from alexq_worker.pipeline.ticket import Summary

MAX_TOGETHER = 64
"""Messages made into rows at once, at most."""


@dataclass(frozen=True, slots=True)
class _Visitor:
    job_id: UUID
    message: ClassifyImage
    future: Future[Summary] = field(default_factory=Future)

    @property
    def source(self) -> str:
        return self.message.source or f"task {self.job_id}"


class Door:
    """Makes rows from messages. Safe to repeat: the task id is the job id. ``start`` and ``stop`` once."""

    def __init__(
        self, database: Database, images: ImageStore, max_image_bytes: int, pipeline: Pipeline
    ) -> None:
        self._database = database
        self._images = images
        self._max_image_bytes = max_image_bytes
        self._pipeline = pipeline
        self._waiting: queue.SimpleQueue[_Visitor | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="alexq-door", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread after the messages at hand."""
        self._waiting.put(None)
        if self._thread.ident is not None:
            self._thread.join(5.0)

    def submit(self, job_id: UUID, message: ClassifyImage) -> Future[Summary]:
        """Hand in a message; the future resolves as :meth:`Pipeline.submit`'s.

        It fails with MessageError when ``image_base64`` is not base64, and with an ImageError when the
        image is refused or no image has this key.
        """
        visitor = _Visitor(job_id, message)
        self._waiting.put(visitor)
        return visitor.future

    def job(self, job_id: UUID) -> Job:
        """Return the job as it stands.

        Raises:
            JobNotFoundError: the message named no image and there is no such job.
        """
        with self._database.read() as connection:
            found = queries.by_id(connection, [job_id])
        if not found:
            raise JobNotFoundError(f"there is no job {job_id}, and the message brings no image for one")
        return found[0]

    def _run(self) -> None:
        is_last = False
        while not is_last:
            waiting = [self._waiting.get()]
            with suppress(queue.Empty):
                while len(waiting) < MAX_TOGETHER:
                    waiting.append(self._waiting.get_nowait())
            is_last = None in waiting
            self._let_in([visitor for visitor in waiting if visitor is not None])

    def _let_in(self, visitors: Sequence[_Visitor]) -> None:
        try:
            accepted = self._pipeline.until_answered("a message's image", lambda: self._accept(visitors))
        except Exception as error:  # noqa: BLE001 - the message fails of it
            if len(visitors) == 1:
                visitors[0].future.set_exception(error)
            else:  # one of them is at fault in a way that has no name
                for visitor in visitors:
                    self._let_in([visitor])
            return
        for visitor, refusal in accepted or [(visitor, None) for visitor in visitors]:
            if refusal is not None:
                visitor.future.set_exception(refusal)
            else:  # while draining, the pipeline gives it back
                self._pipeline.submit([visitor.job_id], Lane.INTERACTIVE, visitor.future)

    def _accept(self, visitors: Sequence[_Visitor]) -> list[tuple[_Visitor, AlexqError | None]]:
        """Store images and rows, unless they are there already; return who was refused, and why.

        Raises:
            ImageStoreError, DatabaseUnavailableError: nothing was accepted.
        """
        accepted: list[tuple[_Visitor, AlexqError | None]] = []
        new: list[NewJob] = []
        with self._images.staging() as staging:
            for visitor in visitors:
                try:
                    new += self._new_job(visitor, staging)
                except UnavailableError:
                    raise
                except AlexqError as error:
                    accepted.append((visitor, error))
                else:
                    accepted.append((visitor, None))
            staging.publish()
        if new:
            with self._database.begin() as connection:
                accept.add_if_absent(connection, new)
        return accepted

    def _new_job(self, visitor: _Visitor, staging: Staging) -> list[NewJob]:
        message = visitor.message
        if message.image_base64 is not None:
            try:
                data = base64.b64decode(message.image_base64, validate=True)
            except ValueError as error:  # binascii.Error is one; so is text that is not ASCII
                raise MessageError(f"{visitor.source}: image_base64 is not base64: {error}") from error
            check_image(data, visitor.source, self._max_image_bytes)
            return [
                NewJob(
                    visitor.job_id,
                    visitor.source,
                    staging.add(data),
                    len(data),
                    message.model,
                    message.options,
                )
            ]
        if message.image_key is not None:
            size = len(self._images.get(message.image_key))
            return [
                NewJob(
                    visitor.job_id, visitor.source, message.image_key, size, message.model, message.options
                )
            ]
        return []  # sent again by the sweeper: the row is there
