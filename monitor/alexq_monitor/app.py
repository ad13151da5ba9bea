"""Flower on alexq's broker. Pages of our own join it through ``Flower.add_handlers``."""

from __future__ import annotations

import ipaddress
import logging
import os
import signal
from typing import Any

from celery import Celery
from flower.app import Flower
from flower.command import apply_env_options, extract_settings
from flower.options import options
from flower.urls import settings as tornado_settings

from alexq_monitor import metrics
from alexq_schema.errors import SettingsError
from alexq_schema.names import QUEUE_CLASSIFY
from alexq_schema.settings import Settings

log = logging.getLogger("alexq.monitor")


def celery_app(settings: Settings) -> Celery:
    """Return a Celery app that can see and steer the workers; JSON is all it reads or writes."""
    app = Celery("alexq_monitor", broker=settings.broker_url, set_as_current=False)
    app.conf.update(
        accept_content=["json"],
        task_serializer="json",
        result_serializer="json",
        event_serializer="json",
        task_default_queue=QUEUE_CLASSIFY,
        broker_connection_retry_on_startup=True,
        # A dead broker must not hold up a request, or the stop, for longer than this.
        broker_transport_options={"socket_connect_timeout": 3.0},
    )
    return app


def require_protection(address: str, *, has_auth: bool) -> None:
    """Refuse to show the dashboard to other machines without a login.

    Raises:
        SettingsError: ``address`` is not loopback and Flower has no authentication.
    """
    if not has_auth and not is_loopback(address):
        raise SettingsError(
            f"ALEXQ_MONITOR_ADDRESS={address!r} would show the dashboard, which can stop workers, to other "
            "machines without a login: set FLOWER_BASIC_AUTH=user:password or FLOWER_AUTH, "
            "or keep 127.0.0.1"
        )


def is_loopback(address: str) -> bool:
    """Return whether only this machine can reach ``address``; an empty one means every interface."""
    if address == "localhost":
        return True
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


def build(settings: Settings) -> Flower:
    """Return Flower, configured as its own command does from ``FLOWER_…``, not yet listening.

    Address, port and broker are ours; a ``flowerconfig.py`` in the working folder is not executed,
    and the events stay in memory: what must last is in the SQL database.

    Raises:
        SettingsError: no broker, or open to other machines without a login.
    """
    if not settings.broker_url:
        raise SettingsError("ALEXQ_BROKER_URL is not set")
    apply_env_options()
    options.address = settings.monitor_address
    options.port = settings.monitor_port
    options.unix_socket = ""
    options.persistent = False
    require_protection(options.address, has_auth=bool(options.basic_auth or options.auth))
    extract_settings()
    logging.getLogger("tornado.access").propagate = False  # what fails, tornado.application tells
    flower = Flower(capp=celery_app(settings), options=options, **tornado_settings)
    metrics.install(flower, settings)
    return flower


def serve(flower: Flower) -> None:
    """Answer requests until SIGTERM or SIGINT.

    Raises:
        SettingsError: the port is taken, or this machine does not have the address.
    """
    try:
        port = flower.start_http_server()
    except OSError as error:
        raise SettingsError(
            f"cannot listen on {options.address}:{options.port}: {error.strerror or error}; "
            "set ALEXQ_MONITOR_ADDRESS and ALEXQ_MONITOR_PORT"
        ) from error
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
