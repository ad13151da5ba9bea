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

import celery.apps.worker
import redis
from celery import Celery, signals
from kombu.exceptions import KombuError

from alexq_schema import logs, migrations, process
from alexq_schema.celery_settings import celery_config
from alexq_schema.db import workers
from alexq_schema.db.jobs import Limits
from alexq_schema.db.session import Database
from alexq_schema.errors import AlexqError, UnavailableError
from alexq_schema.ids import new_id
from alexq_schema.images import open_image_store
from alexq_schema.names import QUEUE_CLASSIFY, QUEUES
from alexq_schema.repeating import Repeating
from alexq_schema.settings import Settings
from alexq_worker import tasks, transport
from alexq_worker.canary import Trial
from alexq_worker.door import Door
from alexq_worker.health import EXIT_UNHEALTHY, PAUSED_S, Health, Watch
from alexq_worker.intake import Intake
from alexq_worker.isolation.messages import Setup
from alexq_worker.isolation.parent import IsolatedEngine
from alexq_worker.lifecycle import Heartbeat, Notifier
from alexq_worker.metrics import Metrics
from alexq_worker.pipeline.pipeline import Pipeline
from alexq_worker.pipeline.residents import Residents
from alexq_worker.pool import Pool
from alexq_worker.refusals import Refusals
from alexq_worker.reporting import Reporting
from alexq_worker.serving import Following, Loaded, Loader
from alexq_worker.sweeper import SWEEP_EVERY_S, Sweeper
from alexq_worker.table import SqlJobTable

RESULT_EXPIRES_S = 3600
"""How long an answer stays in Celery's Redis result backend; SQL keeps it."""

VISIBILITY_S = 60
"""Age at which a message that a worker took and has not acked goes to another worker too.

Jobs do not need it, as their rows bring them back; a message of Celery's own door does, while it has none
yet. A message that is delivered twice finds nothing to claim.
"""

log = logging.getLogger("alexq.worker")


def main() -> int:
    """Run a worker until SIGTERM or SIGINT; return the exit code: 0 stopped in good order."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # until Celery takes over: nothing is held yet
    try:
        settings = Settings.connected()
        logs.configure(settings.log_format, "worker")
        return Process(settings).run()
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
            DatabaseUnavailableError, MigrationError, ModelError, DeviceError, SettingsError: says what to do.
        """
        self.settings = settings
        metrics = Metrics()
        metrics.listen(settings.metrics_address, settings.metrics_port)
        migrations.require_usable(settings.database_url)
        self.database = Database(settings.database_url)
        loader = Loader(settings, self.database)
        self.serving = loader.load(settings.model)
        residents = Residents(self.serving, loader.load, settings.pinned_models)
        self.worker_id = new_id()
        logs.bind(worker_id=str(self.worker_id))
        client = redis.Redis.from_url(
            settings.broker_url,
            socket_connect_timeout=settings.publish_timeout_s,
            socket_timeout=settings.publish_timeout_s,
        )
        images = open_image_store(settings.images_url)
        isolation = IsolatedEngine(Setup.of(settings), timeout_s=settings.isolation_timeout_s)
        self.notifier = Notifier(client)
        self.trial = Trial(loader, images, self.database)
        reporting = Reporting(self.notifier, metrics, self.trial)
        intake = Intake()
        self.pipeline = Pipeline(
            table=SqlJobTable(
                self.database,
                worker_id=self.worker_id,
                limits=Limits(settings.max_attempts, settings.max_crashes),
                retry_pause_s=settings.retry_pause_s,
                random=Random(),  # noqa: S311 - for jitter
            ),
            images=images,
            residents=residents,
            isolation=isolation,
            max_batch=settings.max_batch,
            decode_threads=settings.decode_threads,
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
            lambda: sum(map(client.llen, QUEUES)),
            settings.unhealthy_after_s,
            paused_s=max(PAUSED_S, 4 * settings.heartbeat_s),
        )
        self.health = Health(self.database, self.worker_id, settings.health_file, watch.trouble)
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
            queues=[QUEUE_CLASSIFY],  # the intake consumes the others
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
        for repeating in self._repeating:
            repeating.stop()
        if not self.pipeline.stop(self.settings.stop_grace_s):
            log.error("jobs were still in flight after %s s", self.settings.stop_grace_s)
            return 1
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
            )
        self.pipeline.start()
        self.door.start()
        self.trial.start()
        for repeating in self._repeating:
            repeating.start()
        engine = self.serving.engine
        log.info("ready: %s on %s", engine.model_ref.name, engine.device_name)

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


def celery_app(settings: Settings) -> Celery:
    """Return the app of a worker, without tasks; its process speaks Redis by our transport from now on."""
    transport.use()
    _quieten_celery()
    config = celery_config(settings)
    config["broker_transport_options"]["visibility_timeout"] = VISIBILITY_S
    app = Celery("alexq")
    app.conf.update(
        config,
        result_backend=settings.broker_url,
        result_backend_thread_safe=True,
        result_expires=RESULT_EXPIRES_S,
        task_acks_late=True,
        worker_prefetch_multiplier=1,
        worker_send_task_events=True,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
    )
    return app


def _quieten_celery() -> None:
    """Log connections, but no message: Celery has two lines for each, and a traceback for one given back."""
    logging.getLogger("celery.worker.consumer.connection").setLevel(logging.INFO)
    logging.getLogger("celery.app.trace").addFilter(_is_not_given_back)
    celery.apps.worker.safe_say = lambda *_: None  # at a signal: around the log, where we say the same


def _is_not_given_back(record: logging.LogRecord) -> bool:
    data = getattr(record, "data", None)
    return not (isinstance(data, dict) and data.get("description") == "rejected")


def _die(error: Exception) -> None:
    """End the process at once; it holds nothing yet."""
    log.critical("could not begin to work; this process ends", exc_info=error)
    os._exit(EXIT_UNHEALTHY)
