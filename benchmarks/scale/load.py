"""Jobs for the workers: accepted rows without images, and the messages that tell of them."""

from __future__ import annotations

import base64
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID

from celery import Celery
from sqlalchemy import Connection

from alexq_schema.celery_settings import celery_config, publish
from alexq_schema.db import accept
from alexq_schema.db.accept import NewJob, NewSubmission
from alexq_schema.db.session import Database
from alexq_schema.ids import new_id
from alexq_schema.messages import Unpublished
from alexq_schema.names import (
    IDS_PER_MESSAGE,
    QUEUE_CLASSIFY,
    TASK_CLASSIFY_IMAGE,
    TASK_CLASSIFY_JOBS,
    Lane,
    queue_name,
)
from benchmarks.images import jpegs
from benchmarks.scale.services import Services

SUBMISSION = 1_000
IMAGE_BYTES = 56_000
FEED_EVERY_S = 0.01
ENDED_LABEL = "yesterday"


class Load:
    """One client that hands jobs in: ``bulk`` (64 ids a message), ``single`` (one) or ``door`` (an image)."""

    def __init__(self, where: Services, traceparent: str | None = None) -> None:
        """Connect.

        Args:
            traceparent: the trace that the jobs belong to.
        """
        self._traceparent = traceparent
        self.database = Database(where.settings.database_url)
        self._redis = where.broker.client()
        self._celery = Celery("alexq-scale", set_as_current=False)
        self._celery.conf.update(celery_config(where.settings))

    def add(self, kind: str, count: int) -> list[UUID]:
        """Hand in ``count`` jobs and return their ids."""
        if kind == "door":
            return self._send_images(count)
        lane = Lane.BULK if kind == "bulk" else Lane.INTERACTIVE
        added: list[UUID] = []
        while len(added) < count:
            jobs = self._accept(min(SUBMISSION, count - len(added)), lane)
            step = len(jobs) if kind == "bulk" else 1
            for start in range(0, len(jobs), step):
                publish(self._celery, jobs[start : start + step])
            added += [job.job_id for job in jobs]
        return added

    def _accept(self, count: int, lane: Lane) -> list[Unpublished]:
        ids = enumerate(new_id() for _ in range(count))  # each job's image is its own
        jobs = [NewJob(job_id, f"{number}.jpg", 2 * job_id.hex, IMAGE_BYTES) for number, job_id in ids]
        submission = NewSubmission(new_id(), jobs, lane, traceparent=self._traceparent)
        with self.database.begin() as connection:
            accept.add(connection, [submission])
        return [Unpublished(job.job_id, submission.submission_id, TASK_CLASSIFY_JOBS, lane) for job in jobs]

    def _send_images(self, count: int) -> list[UUID]:
        image = jpegs(1)[0]
        job_ids = [new_id() for _ in range(count)]
        with self._celery.producer_or_acquire() as producer:
            for job_id in job_ids:
                self._celery.send_task(
                    TASK_CLASSIFY_IMAGE,
                    kwargs={"image_base64": base64.b64encode(image + job_id.bytes).decode()},
                    task_id=str(job_id),
                    kwargsrepr="an image",
                    queue=QUEUE_CLASSIFY,
                    producer=producer,
                )
        return job_ids

    def waiting_messages(self) -> int:
        """Return how many messages wait in the broker."""
        return sum(int(self._redis.llen(queue_name(lane))) for lane in Lane)

    def answers(self) -> int:
        """Return how many answers Celery's result backend holds."""
        return sum(1 for _ in self._redis.scan_iter("celery-task-meta-*", count=1_000))

    @contextmanager
    def held_at(self, backlog: int, added: list[UUID]) -> Iterator[None]:
        """Keep ``backlog`` bulk jobs waiting in the broker while the context lasts; note their ids."""
        done = threading.Event()

        def feed() -> None:
            while not done.wait(FEED_EVERY_S):
                missing = min(backlog - IDS_PER_MESSAGE * self.waiting_messages(), SUBMISSION)
                if missing >= IDS_PER_MESSAGE:
                    added.extend(self.add("bulk", missing // IDS_PER_MESSAGE * IDS_PER_MESSAGE))

        feeder = threading.Thread(target=feed, name="feeder", daemon=True)
        feeder.start()
        try:
            yield
        finally:
            done.set()
            feeder.join(60)

    def close(self) -> None:
        """Close every connection."""
        self._celery.close()
        self._redis.close()
        self.database.close()


def insert_ended(connection: Connection, count: int) -> None:
    """Insert ``count`` jobs that succeeded yesterday, all in one statement."""
    is_sqlite = connection.dialect.name == "sqlite"
    first = new_id()
    accept.add(connection, [NewSubmission(first, [], Lane.BULK)])
    if is_sqlite:
        numbers = f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count})"
        job_id, key = "printf('01900000%024x', i)", "printf('%064x', i * 2654435761)"
        yesterday = "strftime('%Y-%m-%d %H:%M:%f000', 'now', '-1 day', (i / 100.0) || ' seconds')"
        predictions, submission_id = "'[]'", f"'{first.hex}'"
    else:
        numbers = f"WITH n(i) AS (SELECT generate_series(1, {count}))"
        job_id, key = "('01900000' || lpad(to_hex(i), 24, '0'))::uuid", "md5(i::text) || md5((-i)::text)"
        yesterday = "clock_timestamp() - interval '1 day' + make_interval(secs => i / 100.0)"
        predictions, submission_id = "'[]'::jsonb", f"'{first}'::uuid"
    connection.exec_driver_sql(
        "INSERT INTO jobs (id, submission_id, position, task, lane, source, image_key, image_bytes, state,"
        " attempt, errors, crashes, created_at, published_at, claimed_at, finished_at, decode_s, forward_s,"
        " batch_size, label, probability, predictions) "
        f"{numbers} SELECT {job_id}, {submission_id}, i, '{TASK_CLASSIFY_JOBS}', 'bulk', 'earlier.jpg',"
        f" {key}, {IMAGE_BYTES}, 'succeeded', 1, 0, 0, {', '.join(4 * [yesterday])}, 0.001, 0.001, 64,"
        f" '{ENDED_LABEL}', 0.5, {predictions} FROM n"
    )
