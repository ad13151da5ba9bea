"""Traces: OpenTelemetry's spans where somebody records them, and nothing at all where nobody does.

The one module that knows OpenTelemetry. That is imported where a process of ours finds its variables set
(:func:`begin`); or the service that uses the SDK has imported it already: then its tracer provider is used,
and never replaced. Otherwise every function here is a look into ``sys.modules``.

A trace goes on over HTTP in the headers of the propagators that OpenTelemetry is set to (W3C by default), and
through the job's row as a W3C ``traceparent``. Only a sampled trace is written there: what reads the row has
nothing to do for the others.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import lru_cache
from importlib.metadata import version
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import Span as Span
    from opentelemetry.trace import SpanContext, Tracer, TracerProvider

ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
"""Where spans go; either asks for traces."""

MAX_LINKS: Final = 128
"""What OpenTelemetry keeps of a span's links by default."""

PROCESS: Final = {"messaging.system": "celery", "messaging.operation.type": "process"}
SEND: Final = {"messaging.system": "celery", "messaging.operation.type": "send"}
"""Attributes of spans that take jobs from a queue, and that put them there."""

Kind = Literal["internal", "client", "server", "producer", "consumer"]
Attributes = Mapping[str, str | int | float]

log = logging.getLogger("alexq.tracing")


def begin(process: str) -> None:
    """Record the spans of this process, ``process``, where OpenTelemetry's variables ask for it.

    They also say where to, how many and under which name; see ``docs/howto/traces.md``. Where the extra is
    not installed, the log says so and the process goes on.
    """
    exporter = os.environ.get("OTEL_TRACES_EXPORTER", "")
    is_asked = exporter == "otlp" or (exporter == "" and any(os.environ.get(name) for name in ENDPOINTS))
    if not is_asked or os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return
    try:
        from opentelemetry import trace
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        log.warning('traces are asked for (OTEL_…), but cannot be made: pip install "alexq[otel]"')
        return
    if is_on():  # by opentelemetry-instrument
        return
    is_named = "OTEL_SERVICE_NAME" in os.environ or "service.name=" in os.environ.get(
        "OTEL_RESOURCE_ATTRIBUTES", ""
    )
    name = {} if is_named else {"service.name": f"alexq-{process}"}
    provider = TracerProvider(resource=Resource.create(name))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)  # what has not gone out goes when the process ends


def is_on() -> bool:
    """Return whether somebody in this process records spans."""
    return _tracer() is not None


@contextmanager
def span(
    name: str,
    kind: Kind = "internal",
    attributes: Attributes | None = None,
    *,
    parent: str | Mapping[str, str] | None = None,
) -> Iterator[None]:
    """Record what is done in this context as a span, which is the current one meanwhile.

    Args:
        parent: a row's ``traceparent``, or the headers of a request; by default the current span.
    """
    tracer = _tracer()
    if tracer is None:
        yield
        return
    from opentelemetry import trace

    with tracer.start_as_current_span(
        name, context=_context(parent), kind=trace.SpanKind[kind.upper()], attributes=attributes
    ):
        yield


def note(attributes: Attributes = MappingProxyType({}), *, name: str = "", error: str = "") -> None:
    """Add to the current span: attributes, its final name, and that it failed, of ``error``."""
    if not is_on():
        return
    from opentelemetry import trace

    current = trace.get_current_span()
    current.set_attributes(attributes)
    if name:
        current.update_name(name)
    if error:
        _fail(current, error)


def record(
    name: str,
    began_s: float,
    ended_s: float,
    kind: Kind = "internal",
    attributes: Attributes | None = None,
    *,
    parent: str | Span | None = None,
    links: Sequence[str | Span] = (),
    error: str = "",
) -> Span | None:
    """Record what has been done already; return its span, or None where nobody records.

    Args:
        began_s: the time of day in seconds, as ``ended_s``.
        parent: a row's ``traceparent`` or a span; without one it begins a trace of its own.
        links: those of sampled traces are kept.
        error: what it failed of.
    """
    tracer = _tracer()
    if tracer is None:
        return None
    from opentelemetry import trace

    made = tracer.start_span(
        name,
        context=_context(parent) or trace.set_span_in_context(trace.INVALID_SPAN),
        kind=trace.SpanKind[kind.upper()],
        attributes=attributes,
        links=[trace.Link(one) for one in map(_span_context, links[:MAX_LINKS]) if one.trace_flags.sampled],
        start_time=int(began_s * 1e9),
    )
    if error:
        _fail(made, error)
    made.end(int(ended_s * 1e9))
    return made


def within(made: Span | None) -> AbstractContextManager[object]:
    """Return a context in which ``made`` is the current span: log lines name its trace."""
    if made is None:
        return nullcontext()
    from opentelemetry import trace

    return trace.use_span(made)


def traceparent() -> str | None:
    """Return the current span as a row keeps it; None where there is none, or its trace is not sampled."""
    current = _current()
    if current is None or not current.trace_flags.sampled:
        return None
    return f"00-{current.trace_id:032x}-{current.span_id:016x}-01"


def trace_id() -> str | None:
    """Return the id of the current trace, sampled or not, in hexadecimal."""
    current = _current()
    return None if current is None else f"{current.trace_id:032x}"


def headers() -> dict[str, str]:
    """Return the headers by which a request carries on the current trace."""
    carrier: dict[str, str] = {}
    if is_on():
        from opentelemetry import propagate

        propagate.inject(carrier)
    return carrier


def _tracer() -> Tracer | None:
    if "opentelemetry.trace" not in sys.modules:
        return None
    from opentelemetry import trace

    provider = trace.get_tracer_provider()
    if isinstance(provider, trace.ProxyTracerProvider | trace.NoOpTracerProvider):
        return None
    return _tracer_of(provider)


@lru_cache(maxsize=1)
def _tracer_of(provider: TracerProvider) -> Tracer:
    return provider.get_tracer("alexq", version("alexq"))


def _current() -> SpanContext | None:
    if not is_on():
        return None
    from opentelemetry import trace

    current = trace.get_current_span().get_span_context()
    return current if current.is_valid else None


def _context(parent: str | Mapping[str, str] | Span | None) -> Context | None:
    from opentelemetry import propagate, trace
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    if parent is None:
        return None
    if isinstance(parent, str):  # whatever the propagators over HTTP are
        return TraceContextTextMapPropagator().extract({"traceparent": parent})
    if isinstance(parent, trace.Span):
        return trace.set_span_in_context(parent)
    return propagate.extract(parent)


def _span_context(of: str | Span) -> SpanContext:
    from opentelemetry import trace

    made = trace.get_current_span(_context(of)) if isinstance(of, str) else of
    return made.get_span_context()


def _fail(made: Span, error: str) -> None:
    from opentelemetry import trace

    made.set_attribute("error.type", error)
    made.set_status(trace.StatusCode.ERROR)
