"""Logging of every process: the standard library's records, rendered by structlog.

Console lines for people or one JSON object a line for machines (``ALEXQ_LOG_FORMAT``), on stderr. Modules log
with ``logging`` alone; what a line is about goes beside its text: ``log.warning("…", extra={"job_id": …})``.
Only modules that begin a process import this one: the plain install has no structlog.
"""

from __future__ import annotations

import logging
import sys
import threading
from types import TracebackType
from typing import Final

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from alexq_schema import tracing
from alexq_schema.settings import LogFormat

OURS: Final = "alexq"
"""Loggers whose names begin so may say what a line is about; others put in what they like."""

log = logging.getLogger(OURS)

_process: dict[str, str] = {}
"""On every JSON line: this process, and what :func:`bind` added."""

_extra = structlog.stdlib.ExtraAdder()

_SHOWN: Final = {number: repr(chr(number))[1:-1] for number in (*range(32), *range(127, 160))} | {
    ord("\t"): "\t",
    ord("\n"): "\n    ",
}
"""What a console line has in place of a control character."""


def configure(log_format: LogFormat, process: str) -> None:
    """Send every log record, warning and uncaught error of this process to stderr in one format.

    Args:
        process: what it is, such as ``gateway``; JSON lines name it.
    """
    _process.clear()
    _process["process"] = process
    is_json = log_format == "json"
    renderer: Processor = (
        structlog.processors.JSONRenderer(default=str)
        if is_json
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), pad_event_to=0)
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[
                structlog.stdlib.add_log_level,
                structlog.processors.TimeStamper(fmt="iso", utc=True),
                _add_what_it_is_about,
                _add_trace,
                *([structlog.stdlib.add_logger_name, _add_process] if is_json else []),
            ],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                *([] if is_json else [_for_people]),
                renderer,
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    log.setLevel(logging.INFO)
    logging.captureWarnings(capture=True)
    sys.excepthook = _log_uncaught
    threading.excepthook = _log_uncaught_in_thread


def bind(**ids: str) -> None:
    """Add ``ids`` to every JSON line of this process from now on."""
    _process.update(ids)


def _add_what_it_is_about(logger: WrappedLogger, name: str, event: EventDict) -> EventDict:
    return _extra(logger, name, event) if event["_record"].name.startswith(OURS) else event


def _add_trace(_logger: WrappedLogger, _name: str, event: EventDict) -> EventDict:
    trace_id = tracing.trace_id()
    return event if trace_id is None else {**event, "trace_id": trace_id}


def _add_process(_logger: WrappedLogger, _name: str, event: EventDict) -> EventDict:
    return {**event, **_process}


def _for_people(_logger: WrappedLogger, _name: str, event: EventDict) -> EventDict:
    """Let nothing that a client sent look like a line of its own or steer the terminal, and shorten lists."""
    return {key: _shown(value) for key, value in event.items()}


def _shown(value: object) -> object:
    if isinstance(value, str):
        return value.translate(_SHOWN)
    if isinstance(value, list) and len(value) > 1:
        return f"{value[0]} and {len(value) - 1} more"
    return value


def _log_uncaught(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, traceback)
        return
    log.critical("this process ends by an error that nobody caught", exc_info=(kind, error, traceback))


def _log_uncaught_in_thread(args: threading.ExceptHookArgs) -> None:
    if not issubclass(args.exc_type, SystemExit):
        name = args.thread.name if args.thread else "?"
        value = args.exc_value or args.exc_type()
        log.critical("thread %s ended by an error", name, exc_info=(args.exc_type, value, args.exc_traceback))
