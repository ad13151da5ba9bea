"""Logging: structlog over the standard library; console lines for people or JSON for machines."""

from __future__ import annotations

import logging
import sys
from typing import Literal

import structlog


def configure(log_format: Literal["console", "json"]) -> None:
    """Send every log record of this process to stderr in one format."""
    shared: list[structlog.typing.Processor] = [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer()
        if log_format == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), pad_event_to=0)
    )
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                renderer,
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    # Celery logs each message twice at INFO; one line a batch is alexq's own.
    logging.getLogger("alexq").setLevel(logging.INFO)
    logging.getLogger("celery.worker.consumer.connection").setLevel(logging.INFO)
    logging.getLogger("celery.app.trace").addFilter(_is_not_given_back)


def _is_not_given_back(record: logging.LogRecord) -> bool:
    """Drop Celery's traceback of each message that a stopping worker gives back."""
    data = getattr(record, "data", None)
    return not (isinstance(data, dict) and data.get("description") == "rejected")
