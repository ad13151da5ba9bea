"""What a worker does beside its work: shows that it lives, and looks after what others left."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Sequence
from uuid import UUID

import redis
from celery import Celery, states
from kombu.exceptions import KombuError

from alexq_schema.announcing import announce
from alexq_schema.celery_settings import publish
from alexq_schema.db import jobs, publishing, queries, workers
from alexq_schema.db.session import Database
from alexq_schema.errors import AlexqError
from alexq_schema.job import JobState
from alexq_schema.names import KEY_SWEEPER_LOCK, QUEUE_CLASSIFY
from alexq_schema.settings import Settings

STALLED_AFTER_S = 60.0
"""Time without progress, while jobs are in flight, after which a worker no longer counts as alive."""

SWEEP_EVERY_S = 2.0
SWEEP_LIMIT = 4_096
"""Jobs republished in one sweep, at most."""
LOST_AFTER_S = 10.0
"""Age of a queued job's last message at which an empty queue proves the message lost."""

log = logging.getLogger("alexq.worker")


class Repeating:
    """Calls ``action`` every ``interval_s`` on a thread of its own; what it raises is logged."""

    def __init__(self, name: str, interval_s: float, action: Callable[[], None]) -> None:
        self._interval_s = interval_s
        self._action = action
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Start; the first call comes at once."""
        self._thread.start()

    def stop(self) -> None:
        """Stop after the call in progress, which gets 5 s. May be called twice, or without a start."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join(5.0)

    def _run(self) -> None:
        while True:
            try:
                self._action()
            except (AlexqError, redis.RedisError, KombuError, OSError) as error:
                log.warning("%s: %s", self._thread.name, error)
            except Exception:
                log.exception("%s failed; it goes on", self._thread.name)
            if self._stop.wait(self._interval_s):
                return


class Heartbeat:
    """Renews the worker's row while its pipeline gets on; a stalled worker falls silent."""

    def __init__(self, database: Database, worker_id: UUID, stalled_s: Callable[[], float]) -> None:
        self._database = database
        self._worker_id = worker_id
        self._stalled_s = stalled_s

    def beat(self) -> None:
        """Renew the row, or say why not."""
        stalled_s = self._stalled_s()
        if stalled_s > STALLED_AFTER_S:
            log.error("no progress for %.0f s with jobs in flight: no longer counted as alive", stalled_s)
            return
        with self._database.begin() as connection:
            workers.renew(connection, self._worker_id)


class Notifier:
    """Announces finished jobs; a lost announcement costs those who wait time only."""

    def __init__(self, client: redis.Redis) -> None:
        self._redis = client

    def announce(self, finished: Iterable[tuple[UUID | None, UUID]]) -> None:
        """Announce (submission id, job id) pairs: one round trip."""
        try:
            announce(self._redis, finished)
        except (redis.RedisError, OSError) as error:
            log.warning("could not announce finished jobs: %s", error)


class Sweeper:
    """Takes back the jobs of silent workers and publishes rows whose message is missing."""

    def __init__(
        self, settings: Settings, database: Database, client: redis.Redis, app: Celery, notifier: Notifier
    ) -> None:
        self._settings = settings
        self._database = database
        self._redis = client
        self._app = app
        self._notifier = notifier

    def sweep(self) -> None:
        """Do one round, unless another worker is at it."""
        lock = self._redis.lock(KEY_SWEEPER_LOCK, timeout=30.0, blocking=False)
        if not lock.acquire():
            return
        try:
            self._return_silent()
            self._republish()
        finally:
            if lock.owned():
                lock.release()

    def _return_silent(self) -> None:
        with self._database.begin() as connection:
            returned = jobs.return_silent(
                connection,
                silent_after_s=self._settings.silent_after_s,
                max_crashes=self._settings.max_crashes,
            )
        if not returned:
            return
        dead = [job for job in returned if job.state is JobState.DEAD]
        log.warning(
            "took %d jobs back from workers that fell silent; %d of them are dead", len(returned), len(dead)
        )
        self._notifier.announce((job.submission_id, job.job_id) for job in dead)
        self._answer([job.job_id for job in dead if job.submission_id is None])

    def _answer(self, job_ids: Sequence[UUID]) -> None:
        """Tell Celery clients of jobs that no worker will answer for any more."""
        if job_ids:
            with self._database.read() as connection:
                ended = queries.by_id(connection, job_ids)
            for job in ended:
                self._app.backend.store_result(str(job.job_id), job.model_dump(mode="json"), states.SUCCESS)

    def _republish(self) -> None:
        # An empty queue with queued rows: their messages are lost, or in the hands of a worker that
        # will claim them within seconds (a second message then finds nothing to claim).
        is_queue_empty = self._redis.llen(QUEUE_CLASSIFY) == 0
        with self._database.begin() as connection:
            missing = publishing.take_unpublished(
                connection, limit=SWEEP_LIMIT, lost_after_s=LOST_AFTER_S if is_queue_empty else None
            )
        if missing:
            self._publish(missing)

    def _publish(self, missing: Sequence[tuple[UUID, str]]) -> None:
        try:
            publish(self._app, missing)
        except (KombuError, OSError):
            with self._database.begin() as connection:
                publishing.mark_unpublished(connection, [job_id for job_id, _ in missing])
            raise
        log.info("published %d jobs whose message was missing", len(missing))
