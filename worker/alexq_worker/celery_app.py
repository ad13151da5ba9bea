"""Celery as a worker configures it: our transport, its messages acked late, its log quiet."""

from __future__ import annotations

import logging

import celery.apps.worker
from celery import Celery

from alexq_schema.broker import BrokerAddress
from alexq_schema.celery_settings import celery_worker_config
from alexq_schema.settings import Settings
from alexq_worker import transport

RESULT_EXPIRES_S = 3600
"""How long an answer stays in Celery's Redis result backend; SQL keeps it."""

VISIBILITY_S = 60
"""Age at which a message that a worker took and has not acked goes to another worker too.

Jobs do not need it, as their rows bring them back; a message of Celery's own door does, while it has none
yet. A message that is delivered twice finds nothing to claim.
"""


def celery_app(settings: Settings) -> Celery:
    """Return the app of a worker, without tasks; its process speaks Redis by our transport from now on."""
    transport.use()
    _quieten_celery()
    config = celery_worker_config(settings)
    config["broker_transport_options"]["visibility_timeout"] = VISIBILITY_S
    app = Celery("alexq")
    app.conf.update(
        config,
        **BrokerAddress.parse(settings.broker_url).celery_results,
        result_backend_thread_safe=True,
        result_expires=RESULT_EXPIRES_S,
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
