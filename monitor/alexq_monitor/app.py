"""Flower on alexq's broker, with pages of our own beside its."""

from __future__ import annotations

import logging
import os
import signal
from pathlib import Path
from typing import Any, Final

from celery import Celery
from flower.app import Flower
from flower.command import apply_env_options, extract_settings
from flower.options import options
from flower.urls import settings as tornado_settings
from tornado.netutil import bind_sockets

from alexq_monitor import metrics, pages
from alexq_monitor.dashboard import Dashboard
from alexq_monitor.history import History, Recorder
from alexq_monitor.listening import Server
from alexq_monitor.look import Templates
from alexq_monitor.overview import Overview
from alexq_monitor.pages import batches
from alexq_monitor.protection import require_comparable, require_protection
from alexq_monitor.sources import Shared, Sources
from alexq_monitor.tallying import Tallies
from alexq_schema.broker import BrokerAddress
from alexq_schema.errors import SettingsError
from alexq_schema.names import QUEUE_CLASSIFY
from alexq_schema.settings import Settings

log = logging.getLogger("alexq.monitor")

TASKS_KEPT: Final = 10_000
"""Messages in Flower's own task list, unless ``FLOWER_MAX_TASKS`` says otherwise: its own 100,000 take nearly
a gigabyte (``benchmarks.monitor``), and what became of jobs is in SQL."""
BATCHES_KEPT_S: Final = 10.0
"""How long the reading of some thousand jobs serves all who look."""


def celery_app(settings: Settings) -> Celery:
    """Return a Celery app that can see and steer the workers; JSON is all it reads or writes.

    Its result backend reads jobs from SQL, so that Flower's ``/api/task/result/ID`` knows every job, old ones
    too. Flower asks the current app for results, so this one is it.
    """
    broker = BrokerAddress.parse(settings.broker_url).celery
    app = Celery("alexq_monitor", backend=f"alexq+{settings.database_url}")
    app.conf.update(
        broker,
        accept_content=["json"],
        task_serializer="json",
        result_serializer="json",
        event_serializer="json",
        task_default_queue=QUEUE_CLASSIFY,
        broker_connection_retry_on_startup=True,
        # A dead broker must not hold up a request, or the stop, for longer than this.
        broker_transport_options={**broker["broker_transport_options"], "socket_connect_timeout": 3.0},
    )
    return app


def build(settings: Settings) -> Flower:
    """Return Flower, configured as its own command does from ``FLOWER_…``, not yet listening.

    Address, port and broker are ours; a ``flowerconfig.py`` in the working folder is not executed,
    and the events stay in memory: what must last is in the SQL database. Unless ``monitor_admin`` allows
    them, actions are off: ours, and Flower's own, which stop workers.

    Raises:
        SettingsError: no broker or database, or open to other machines without a login.
    """
    if not settings.broker_url or not settings.database_url:
        raise SettingsError("the dashboard needs ALEXQ_BROKER_URL and ALEXQ_DATABASE_URL")
    options.max_tasks = TASKS_KEPT
    apply_env_options()
    if settings.monitor_login:
        options.basic_auth = [settings.monitor_login]
    options.address = settings.monitor_address
    options.port = settings.monitor_port
    options.unix_socket = ""
    options.persistent = False
    options.read_only = options.read_only or not settings.monitor_admin
    has_auth = bool(options.basic_auth or options.auth)
    require_protection(options.address, has_auth=has_auth)
    require_comparable(options.basic_auth or ())
    extract_settings()
    templates = Templates(Path(tornado_settings["template_path"]), options.url_prefix)
    flower = Flower(
        capp=celery_app(settings),
        options=options,
        **tornado_settings,
        template_loader=templates,
        log_function=lambda _: None,  # what fails, tornado.application and tornado.general tell
    )
    sources, history = Sources(settings), History()
    dashboard = Dashboard(
        sources=sources,
        overview=Overview(sources, history),
        tallies=Tallies(sources),
        batches=Shared(lambda: sources.read(batches.read), BATCHES_KEPT_S),
        url_prefix=options.url_prefix or "",
        is_admin=not options.read_only,
    )
    flower.add_handlers(".*", [*pages.handlers(dashboard), *metrics.handlers(dashboard)])
    refusal = pages.refusal(dashboard, has_basic_auth=bool(options.basic_auth), has_auth=has_auth)
    flower.default_router.rules.insert(0, refusal)
    flower.io_loop.add_callback(Recorder(sources, history).run)
    return flower


def serve(flower: Flower) -> None:
    """Answer requests until SIGTERM or SIGINT.

    Raises:
        SettingsError: the port is taken, or this machine does not have the address.
    """
    try:
        sockets = bind_sockets(options.port, address=options.address)
    except OSError as error:
        raise SettingsError(
            f"cannot listen on {options.address}:{options.port}: {error.strerror or error}; "
            "set ALEXQ_MONITOR_ADDRESS and ALEXQ_MONITOR_PORT"
        ) from error
    Server(flower, ssl_options=flower.ssl_options, xheaders=options.xheaders).add_sockets(sockets)
    port = sockets[0].getsockname()[1]
    loop: Any = flower.io_loop.asyncio_loop
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, flower.io_loop.stop)
    log.info("dashboard on http://%s:%s%s", options.address, port, options.url_prefix or "")
    flower.start()
    flower.stop()
    # Flower's threads wait in calls to the workers and the broker that nothing can interrupt; there
    # is nothing left to write.
    logging.shutdown()
    os._exit(0)
