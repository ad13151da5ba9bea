"""The sweeper: looks after what others left. Every worker has one, and one of them sweeps at a time."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from uuid import UUID, uuid4

import redis
from celery import Celery, states
from kombu.exceptions import KombuError

from alexq_schema.celery_settings import publish
from alexq_schema.db import (
    idempotency,
    jobs,
    past_results,
    publishing,
    queries,
    retention,
    statistics,
    sweeper,
)
from alexq_schema.db.jobs import Ended, Limits
from alexq_schema.db.session import Database
from alexq_schema.images import PARTS, ImageStore
from alexq_schema.job import JobState
from alexq_schema.messages import Unpublished
from alexq_schema.names import KEY_QUEUE_EPOCH, QueueLane, lanes_of
from alexq_schema.settings import Settings
from alexq_worker.lifecycle import Heartbeat, Notifier
from alexq_worker.metrics import Metrics

SWEEP_EVERY_S = 2.0

SWEEP_LIMIT = 4_096
"""Rows changed in one transaction, at most."""
PUBLISH_FOR_S = 5.0
"""Time that one round spends on publishing; the next goes on."""
CLEAN_EVERY_S = 60.0
"""Pause between two rounds of deleting what retention allows; each looks at one part of the images."""

log = logging.getLogger("alexq.worker")


class Sweeper:
    """Takes back jobs of silent workers, ends late ones, publishes lost ones, deletes old ones."""

    def __init__(
        self,
        settings: Settings,
        worker_id: UUID,
        *,
        database: Database,
        images: ImageStore,
        client: redis.Redis,
        app: Celery,
        notifier: Notifier,
        metrics: Metrics,
        heartbeat: Heartbeat,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._limits = Limits(settings.max_attempts, settings.max_crashes)
        self._worker_id = worker_id
        self._database = database
        self._images = images
        self._redis = client
        self._app = app
        self._notifier = notifier
        self._metrics = metrics
        self._heartbeat = heartbeat
        self._clock = clock
        self._cleaned_at = clock()

    def sweep(self) -> None:
        """Do one round, unless another worker is at it. What needs only the database comes first."""
        steps = (
            self._return_silent,
            self._expire,
            self._count,
            self._clean,
            self._notice_lost_queue,
            self._republish,
        )
        try:
            for step in steps:
                # Anew before each, so that the lease need not be long: one who died with it is soon replaced.
                with self._database.begin() as connection:
                    if not sweeper.hold(connection, self._worker_id, for_s=self._settings.silent_after_s):
                        return
                step()
        finally:
            with self._database.begin() as connection:
                sweeper.let_go(connection, self._worker_id)

    def _return_silent(self) -> None:
        with self._database.begin() as connection:
            # After the wait for SQLite's write lock, and again after that for a server that hung: meanwhile
            # nobody could renew.
            if not self._heartbeat.may_judge_silence:
                return
            returned = jobs.return_silent(
                connection, silent_after_s=self._settings.silent_after_s, limits=self._limits
            )
            if not self._heartbeat.may_judge_silence:
                connection.rollback()
                return
        if returned:
            dead = [job for job in returned if job.state is JobState.DEAD]
            log.warning(
                "took %d jobs back from workers that fell silent; %d of them are dead",
                len(returned),
                len(dead),
                extra={"job_ids": [job.job_id for job in returned]},
            )
            self._metrics.reclaimed(len(returned), len(dead))
            self._tell(dead)

    def _expire(self) -> None:
        with self._database.begin() as connection:
            expired = jobs.expire(connection, limit=SWEEP_LIMIT)
        if expired:
            log.info(
                "%d jobs expired: no worker was free before their deadline",
                len(expired),
                extra={"job_ids": [job.job_id for job in expired]},
            )
            self._metrics.expired(len(expired))
            self._tell(expired)

    def _count(self) -> None:
        with self._database.begin() as connection:
            statistics.refresh(connection)

    def _tell(self, ended: Sequence[Ended]) -> None:
        """Tell those who wait, and the Celery clients that no worker will answer any more."""
        self._notifier.announce((job.submission_id, job.job_id) for job in ended)
        asked = [job.job_id for job in ended if job.submission_id is None]
        if asked:
            with self._database.read() as connection:
                answers = queries.by_id(connection, asked)
            for job in answers:
                self._app.backend.store_result(str(job.job_id), job.model_dump(mode="json"), states.SUCCESS)

    def _clean(self) -> None:
        if self._clock() - self._cleaned_at < CLEAN_EVERY_S:
            return
        self._cleaned_at = self._clock()
        with self._database.begin() as connection:
            idempotency.delete_expired(connection, limit=SWEEP_LIMIT)
        if self._settings.retain_jobs_s:
            with self._database.begin() as connection:
                deleted = retention.delete_old(
                    connection, older_than_s=self._settings.retain_jobs_s, limit=SWEEP_LIMIT
                )
                past_results.delete_old(
                    connection, older_than_s=self._settings.retain_jobs_s, limit=SWEEP_LIMIT
                )
            if deleted:
                log.info("deleted %d jobs older than ALEXQ_RETAIN_JOBS_S", deleted)
                self._metrics.deleted(jobs=deleted)
        part = int(time.time() / CLEAN_EVERY_S) % PARTS
        gone = self._images.discard_unneeded(part, self._needed)
        if gone:
            log.info("deleted %d images that no job needs", gone)
            self._metrics.deleted(images=gone)

    def _needed(self, keys: Sequence[str]) -> set[str]:
        with self._database.read() as connection:
            return retention.needed_images(connection, keys, keep_s=self._settings.retain_images_s or None)

    def _notice_lost_queue(self) -> None:
        """Begin a new queue epoch when Redis has forgotten the present one, and its messages with it."""
        told = self._redis.get(KEY_QUEUE_EPOCH)
        with self._database.read() as connection:
            known = sweeper.queue_epoch(connection)
        if isinstance(told, bytes) and told.decode() == known:
            return
        epoch = str(uuid4())
        self._redis.set(KEY_QUEUE_EPOCH, epoch)
        with self._database.begin() as connection:
            sweeper.begin_queue_epoch(connection, epoch, is_first=known is None)
        if known is not None:
            log.warning("Redis has lost its data: everything that is queued is published again")

    def _republish(self) -> None:
        # An empty queue with queued rows: their messages are lost, or in the hands of a worker that
        # will claim them within seconds (a second message then finds nothing to claim).
        emptied = self._emptied()
        until = self._clock() + PUBLISH_FOR_S
        is_more_left = True
        while is_more_left and self._clock() < until:
            with self._database.begin() as connection:
                missing = publishing.take_unpublished(connection, limit=SWEEP_LIMIT, emptied=emptied)
            if missing:
                self._publish(missing)
            is_more_left = len(missing) == SWEEP_LIMIT

    def _emptied(self) -> list[QueueLane]:
        """Return the lanes whose list in Redis is empty, of the queues in which something waits."""
        with self._database.read() as connection:
            waiting = publishing.waiting_queues(connection)
        lanes = [lane for queue in waiting for lane in lanes_of(queue)]
        with self._redis.pipeline(transaction=False) as pipe:
            for lane in lanes:
                pipe.llen(lane.name)
            lengths = pipe.execute()
        return [lane for lane, length in zip(lanes, lengths, strict=True) if length == 0]

    def _publish(self, missing: Sequence[Unpublished]) -> None:
        try:
            publish(self._app, missing)
        except (KombuError, OSError):
            with self._database.begin() as connection:
                publishing.mark_unpublished(connection, [job.job_id for job in missing])
            raise
        log.info("published %d jobs whose message was missing", len(missing))
        self._metrics.republished(len(missing))
