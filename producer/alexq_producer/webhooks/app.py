"""The composition of the webhook worker: a Celery worker with threads, and the thread that looks for work."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
from random import Random
from typing import Any, Final

import redis
from celery import Celery, signals
from kombu.exceptions import KombuError

from alexq_producer.webhooks.deliverer import THREADS, Deliverer
from alexq_producer.webhooks.dispatcher import Dispatcher
from alexq_producer.webhooks.pace import Pace
from alexq_schema import health_file, migrations
from alexq_schema.broker import connect
from alexq_schema.celery_settings import celery_worker_config
from alexq_schema.db.session import Database
from alexq_schema.errors import BrokerUnavailableError, UnavailableError
from alexq_schema.messages import DeliverWebhook
from alexq_schema.names import QUEUE_WEBHOOKS, TASK_DELIVER_WEBHOOK
from alexq_schema.outward import Outward
from alexq_schema.repeating import Repeating
from alexq_schema.settings import Settings

PREFETCHED: Final = 1
"""Messages that a thread has at hand; those of others stay in the queue, for whoever is free."""

log = logging.getLogger("alexq.webhooks")


class Process:
    """One webhook worker."""

    def __init__(self, settings: Settings, pace: Pace = Pace()) -> None:  # noqa: B008 - it is frozen
        """Prepare; nothing is delivered yet.

        Raises:
            DatabaseUnavailableError, BrokerUnavailableError: it does not answer.
            MigrationError: the database is not at this release's schema.
            SettingsError: a URL is malformed.
        """
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # until Celery takes over: nothing is held yet
        migrations.require_usable(settings.database_url)
        self._database = Database(settings.database_url)
        self._redis = _connected(settings)
        self._outward = Outward(hosts=None, timeout_s=pace.timeout_s, allow_private=settings.webhook_private)
        self._health_file = health_file.writable(settings.webhooks_health_file)
        self._app = celery_app(settings)
        deliverer = Deliverer(self._database, self._outward, pace, Random())  # noqa: S311 - for jitter
        _register(self._app, deliverer)
        self._dispatcher = Dispatcher(self._database, self._redis, self._app, pace)
        self._looking = Repeating(
            "alexq-dispatch", pace.look_every_s, self._look, outages=(redis.RedisError, KombuError)
        )

    def run(self) -> None:
        """Deliver until SIGTERM or SIGINT, which let attempts in progress end."""
        _log_to_stderr()
        signals.worker_ready.connect(self._ready, weak=False)
        worker = self._app.Worker(
            hostname=f"alexq-webhooks-{os.getpid()}@{socket.gethostname()}",
            pool="threads",
            queues=[QUEUE_WEBHOOKS],
            concurrency=THREADS,
            without_mingle=True,
            without_gossip=True,
            loglevel=logging.WARNING,
            quiet=True,
        )
        worker.start()
        self._looking.stop()
        self._health_file.unlink(missing_ok=True)
        self._outward.close()
        self._redis.close()
        self._database.close()
        if worker.exitcode:
            log.error("the consumer ended by itself; its last lines say why")
            sys.exit(worker.exitcode)
        log.info("stopped in good order")

    def _ready(self, **_: Any) -> None:
        self._looking.start()
        log.info("ready")

    def _look(self) -> None:
        # First: a service that is away is no reason to restart this process.
        self._health_file.parent.mkdir(parents=True, exist_ok=True)
        self._health_file.touch()
        self._dispatcher.look()


def _connected(settings: Settings) -> redis.Redis:
    timeout_s = settings.publish_timeout_s
    client = connect(settings.broker_url, socket_connect_timeout=timeout_s, socket_timeout=timeout_s)
    try:
        client.ping()
    except (redis.RedisError, OSError) as error:
        raise BrokerUnavailableError(
            f"the broker does not answer: {error}; start it, or correct ALEXQ_BROKER_URL"
        ) from error
    return client


def celery_app(settings: Settings) -> Celery:
    """Return the app of a webhook worker, without its task."""
    app = Celery("alexq-webhooks", set_as_current=False)
    app.conf.update(
        celery_worker_config(settings),
        task_queues={QUEUE_WEBHOOKS: {}},
        task_default_queue=QUEUE_WEBHOOKS,
        task_ignore_result=True,
        worker_prefetch_multiplier=PREFETCHED,
    )
    return app


def _register(app: Celery, deliverer: Deliverer) -> None:
    def deliver(**body: Any) -> None:
        try:
            deliverer.attempt(DeliverWebhook.parse(body))
        except UnavailableError as error:
            log.warning("delivery %s is tried again: %s", body.get("delivery_id"), error)

    app.task(deliver, name=TASK_DELIVER_WEBHOOK)


def _log_to_stderr() -> None:
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.WARNING)
    logging.getLogger("alexq").setLevel(logging.INFO)
