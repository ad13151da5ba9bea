"""The worker process: the one place where its parts are made and put together.

Order matters: the schema is checked, the model is loaded, verified and warmed up, and only then
does the process connect to the broker and show itself in the ``workers`` table.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import threading
from random import Random
from typing import Any

import redis
from celery import signals
from kombu.exceptions import KombuError
from redis.backoff import NoBackoff
from redis.retry import Retry

from alexq_schema import health_file, logs, migrations, process
from alexq_schema.broker import connect
from alexq_schema.db import workers
from alexq_schema.db.jobs import Limits
from alexq_schema.db.session import Database
from alexq_schema.errors import AlexqError, SettingsError, UnavailableError
from alexq_schema.ids import new_id
from alexq_schema.images import open_image_store
from alexq_schema.names import Lane, lanes_of, queue_name
from alexq_schema.repeating import Repeating
from alexq_schema.settings import Settings
from alexq_worker import store_check, tasks
from alexq_worker.canary import Trial
from alexq_worker.celery_app import celery_app
from alexq_worker.door import Door
from alexq_worker.health import EXIT_UNHEALTHY, PAUSED_S, Health, Watch
from alexq_worker.intake import Intake
from alexq_worker.isolation.messages import Setup
from alexq_worker.isolation.parent import IsolatedEngine
from alexq_worker.lifecycle import Heartbeat, Notifier
from alexq_worker.memory_use import memory_use
from alexq_worker.metrics import Metrics
from alexq_worker.pipeline.pipeline import Pipeline
from alexq_worker.pipeline.residents import Residents
from alexq_worker.pool import Pool
from alexq_worker.refusals import Refusals
from alexq_worker.reporting import Reporting
from alexq_worker.serving import Following, Loaded, Loader
from alexq_worker.sweeper import SWEEP_EVERY_S, Sweeper
from alexq_worker.table import SqlJobTable
from alexq_worker.traces import Traces

log = logging.getLogger("alexq.worker")


def main() -> int:
    """Run a worker until SIGTERM or SIGINT; return the exit code: 0 stopped in good order."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # until Celery takes over: nothing is held yet
    try:
        return Process(process.begin("worker", Settings.connected)).run()
    except AlexqError as error:
        process.say_why(error)
        return 3 if isinstance(error, UnavailableError) else 1
    except KeyboardInterrupt:
        return 130


class Process:
    """One worker process: one device, one resident model."""

    def __init__(self, settings: Settings) -> None:
        """Load and warm up the model, and prepare everything else; nothing is consumed yet.

        Raises:
            DatabaseUnavailableError, MigrationError, ImageStoreError, ModelError, DeviceError, SettingsError:
                says what to do.
        """
        self.settings = settings
        metrics = Metrics()
        metrics.listen(settings.metrics_address, settings.metrics_port)
        migrations.require_usable(settings.database_url)
        own_health_file = health_file.writable(settings.health_file)
        _require_let_in(settings)
        images = open_image_store(settings.images_url)
        store_check.require_usable(images, settings.images_url)
        self.database = Database(settings.database_url)
        loader = Loader(settings, self.database)
        self.serving = loader.load(settings.model)
        residents = Residents(self.serving, loader.load, settings.pinned_models)
        self.worker_id = new_id()
        logs.bind(worker_id=str(self.worker_id))
        client = connect(
            settings.broker_url,
            socket_connect_timeout=settings.publish_timeout_s,
            socket_timeout=settings.publish_timeout_s,
        )
        isolation = IsolatedEngine(Setup.of(settings), timeout_s=settings.isolation_timeout_s)
        self.notifier = Notifier(client)
        traces = Traces(self.worker_id, self.serving.engine.device_name, settings.queue)
        self.trial = Trial(loader, images, self.database)
        reporting = Reporting(self.notifier, metrics, traces, self.trial)
        intake = Intake(settings.queue)
        self.pipeline = Pipeline(
            table=SqlJobTable(
                self.database,
                worker_id=self.worker_id,
                queue=settings.queue,
                limits=Limits(settings.max_attempts, settings.max_crashes),
                retry_pause_s=settings.retry_pause_s,
                random=Random(),  # noqa: S311 - for jitter
            ),
            images=images,
            residents=residents,
            isolation=isolation,
            max_batch=settings.max_batch,
            decode_threads=settings.decode_threads,
            fetch_threads=settings.fetch_threads,
            on_committed=reporting.committed,
            on_room=intake.wake,
            on_fatal=self._broke,
        )
        metrics.describe(self.worker_id, lambda: self.serving.engine, self.pipeline)
        self.messages = 2 * self.pipeline.capacity
        self.app = celery_app(settings)
        self.refusals = Refusals(self.database)
        self.refusals.connect()
        self.app.steps["consumer"].update({intake.step(self.pipeline), self.refusals.step()})
        self.door = Door(self.database, images, settings.max_image_bytes, self.pipeline)
        tasks.register(self.app, self.pipeline, self.door, self.refusals)
        heartbeat = Heartbeat(
            self.database,
            self.worker_id,
            every_s=settings.heartbeat_s,
            silent_after_s=settings.silent_after_s,
            vitals=self._vitals,
        )
        sweeper = Sweeper(
            settings,
            self.worker_id,
            database=self.database,
            images=images,
            client=client,
            app=self.app,
            notifier=self.notifier,
            metrics=metrics,
            heartbeat=heartbeat,
        )
        watch = Watch(
            self.pipeline,
            lambda: sum(client.llen(lane.name) for lane in lanes_of(settings.queue)),
            settings.unhealthy_after_s,
            paused_s=max(PAUSED_S, 4 * settings.heartbeat_s),
        )
        self.health = Health(self.database, self.worker_id, own_health_file, watch.trouble)
        self._repeating = [
            Repeating("alexq-health", settings.heartbeat_s, self.health.look),
            Repeating("alexq-heartbeat", settings.heartbeat_s, heartbeat.beat),
            Repeating("alexq-sweep", SWEEP_EVERY_S, sweeper.sweep, outages=(redis.RedisError, KombuError)),
            Repeating("alexq-refusals", settings.heartbeat_s, self.refusals.flush),
        ]
        self._repeating.append(Repeating("alexq-canary-look", settings.heartbeat_s, self.trial.look))
        if not settings.model:
            following = Following(
                loader,
                residents,
                worker_id=self.worker_id,
                database=self.database,
                on_switch=self._switched,
                metrics=metrics,
            )
            self._repeating.append(Repeating("alexq-models", settings.heartbeat_s, following.look))

    def run(self) -> int:
        """Consume until told to stop; return 0 when everything in flight was finished or given back."""
        signals.worker_ready.connect(self._ready, weak=False)
        signals.worker_shutting_down.connect(self._shutting_down, weak=False)
        host = socket.gethostname()
        worker = self.app.Worker(
            hostname=f"alexq-{os.getpid()}@{host}",
            pool=Pool,
            queues=[queue_name(Lane.INTERACTIVE, self.settings.queue)],  # the intake consumes the other
            concurrency=self.messages,
            without_mingle=True,
            without_gossip=True,
            loglevel=logging.WARNING,
            quiet=True,
        )
        worker.start()
        was_told_to_stop = self.pipeline.is_draining
        self.pipeline.drain()
        self.door.stop()
        self.trial.stop()
        if not self.pipeline.stop(self.settings.stop_grace_s):
            log.error("jobs were still in flight after %s s", self.settings.stop_grace_s)
            return 1
        for repeating in self._repeating:  # not before: who still works and is silent is taken for dead
            repeating.stop()
        self.refusals.flush()
        with self.database.begin() as connection:
            workers.leave(connection, self.worker_id)
        self.database.close()
        self.health.leave()
        if not was_told_to_stop:
            log.error("the consumer ended by itself; its last lines say why")
            return worker.exitcode or 1
        log.info("stopped in good order")
        return 0

    def _vitals(self) -> workers.Vitals:
        engine = self.serving.engine
        return workers.Vitals(engine.batch_limit, memory_use(engine.device_memory()))

    def _ready(self, **_: Any) -> None:
        """The consumer is connected and no message has been taken: show the worker, start its threads."""
        try:
            self._show_and_start()
        except Exception as error:  # noqa: BLE001 - Celery would go on without a pipeline
            _die(error)

    def _show_and_start(self) -> None:
        with self.database.begin() as connection:
            workers.register(
                connection,
                self.worker_id,
                host=socket.gethostname(),
                pid=os.getpid(),
                device=self.serving.engine.device_name,
                model_id=self.serving.model_id,
                queue=self.settings.queue,
            )
        self.pipeline.start()
        self.door.start()
        self.trial.start()
        for repeating in self._repeating:
            repeating.start()
        engine = self.serving.engine
        log.info("ready: %s, %s, on %s", self.serving.ref, engine.precision, engine.device_name)
        if self.settings.queue:
            log.info("it serves the queue %s only", self.settings.queue)

    def _switched(self, serving: Loaded) -> None:
        self.serving = serving

    def _shutting_down(self, **_: Any) -> None:
        """Runs in the signal handler: begin to drain, and bound the time that it may take."""
        self.pipeline.drain()
        last_word = threading.Timer(self.settings.stop_grace_s, self._leave_anyway)
        last_word.daemon = True
        last_word.start()

    def _leave_anyway(self) -> None:
        """End the process although Celery has not: its broker may hang, or the device."""
        is_done = self.pipeline.stop(0)
        log.error("still stopping after %s s; leaving now", self.settings.stop_grace_s)
        os._exit(0 if is_done else 1)

    def _broke(self, error: Exception) -> None:
        """A stage broke, or the device: its jobs return to the queue as a crashed worker's do."""
        log.critical("a stage of the pipeline broke", exc_info=error)
        self.health.fail(f"{type(error).__name__}: {error}")


def _require_let_in(settings: Settings) -> None:
    """Check that the broker does not refuse us; one that is away is waited for.

    Raises:
        SettingsError: it does.
    """
    timeout_s = settings.publish_timeout_s
    once = Retry(NoBackoff(), 0)  # a wrong password does not become right
    try:
        with connect(
            settings.broker_url, socket_connect_timeout=timeout_s, socket_timeout=timeout_s, retry=once
        ) as client:
            client.ping()
    except redis.AuthenticationError as error:
        raise SettingsError(
            f"the broker refuses us ({error}): correct ALEXQ_BROKER_URL or ALEXQ_BROKER_PASSWORD"
        ) from error
    except (redis.RedisError, OSError) as error:
        log.warning("the broker does not answer, and is waited for: %s", error)


def _die(error: Exception) -> None:
    """End the process at once; it holds nothing yet."""
    log.critical("could not begin to work; this process ends", exc_info=error)
    os._exit(EXIT_UNHEALTHY)
