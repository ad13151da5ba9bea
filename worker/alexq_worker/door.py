"""Celery's own door: a plain Celery client sends the image; here it becomes an accepted job."""

from __future__ import annotations

import base64
import binascii
from uuid import UUID

from alexq_schema.db import accept, queries
from alexq_schema.db.accept import NewJob
from alexq_schema.db.session import Database
from alexq_schema.errors import JobNotFoundError, MessageError
from alexq_schema.images import ImageStore, check_image
from alexq_schema.job import Job
from alexq_schema.messages import ClassifyImage
from alexq_schema.names import TASK_CLASSIFY_IMAGE


class Door:
    """Makes rows from messages. Safe to repeat: the task id is the job id."""

    def __init__(self, database: Database, images: ImageStore, max_image_bytes: int) -> None:
        self._database = database
        self._images = images
        self._max_image_bytes = max_image_bytes

    def accept(self, job_id: UUID, message: ClassifyImage) -> UUID:
        """Store the image and the row, unless they are there already; return the job's id.

        Raises:
            MessageError: ``image_base64`` is not base64.
            ImageError: the image is refused, or no image has this key.
            ImageStoreError, DatabaseUnavailableError: nothing was accepted.
        """
        source = message.source or f"task {job_id}"
        if message.image_base64 is not None:
            key, size = self._store(message.image_base64, source)
        elif message.image_key is not None:
            key, size = message.image_key, len(self._images.get(message.image_key))
        else:
            return job_id  # sent again by the sweeper: the row is there
        with self._database.begin() as connection:
            accept.add_if_absent(connection, NewJob(job_id, source, key, size), task=TASK_CLASSIFY_IMAGE)
        return job_id

    def _store(self, image_base64: str, source: str) -> tuple[str, int]:
        try:
            data = base64.b64decode(image_base64, validate=True)
        except binascii.Error as error:
            raise MessageError(f"{source}: image_base64 is not base64: {error}") from error
        check_image(data, source, self._max_image_bytes)
        with self._images.staging() as staging:
            key = staging.add(data)
            staging.publish()
        return key, len(data)

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
