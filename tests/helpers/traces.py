"""Spans under a test's eye: recorded in this process, or received from others over OTLP."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from opentelemetry import trace
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.util._once import Once


@dataclass(frozen=True)
class Told:
    """One span; ids in hexadecimal."""

    service: str
    name: str
    trace_id: str
    span_id: str
    parent_id: str | None
    attributes: Mapping[str, Any]
    links: tuple[tuple[str, str], ...]
    """(trace id, span id)."""
    is_error: bool

    @property
    def ids(self) -> tuple[str, str]:
        """What a link to it holds."""
        return self.trace_id, self.span_id


class Recording:
    """What this process records, in OpenTelemetry's in-memory exporter."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self.provider = TracerProvider(shutdown_on_exit=False)
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))

    def spans(self) -> list[Told]:
        """Return the spans that have ended, in that order."""
        return [_told(span) for span in self._exporter.get_finished_spans()]


@contextmanager
def recording() -> Iterator[Recording]:
    """Make this process one that traces."""
    made = Recording()
    trace.set_tracer_provider(made.provider)
    assert trace.get_tracer_provider() is made.provider, "somebody else traces"
    try:
        yield made
    finally:
        forget_provider()


def forget_provider() -> None:
    """Make this process one that does not trace: as OpenTelemetry's own tests do."""
    trace._TRACER_PROVIDER = None
    trace._TRACER_PROVIDER_SET_ONCE = Once()


def _told(span: ReadableSpan) -> Told:
    own, parent = span.get_span_context(), span.parent
    assert own is not None
    return Told(
        "here",
        span.name,
        f"{own.trace_id:032x}",
        f"{own.span_id:016x}",
        None if parent is None else f"{parent.span_id:016x}",
        dict(span.attributes or {}),
        tuple((f"{one.context.trace_id:032x}", f"{one.context.span_id:016x}") for one in span.links),
        span.status.status_code is trace.StatusCode.ERROR,
    )


@dataclass
class Collector:
    """A real OTLP/HTTP receiver on loopback."""

    received: list[Told] = field(default_factory=list)

    def __enter__(self) -> Self:
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                collector.received += _parsed(body)
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def named(self, name: str) -> list[Told]:
        """Return the spans of this name that have come."""
        return [span for span in self.received if span.name == name]


def _parsed(body: bytes) -> Iterator[Told]:
    for of_process in ExportTraceServiceRequest.FromString(body).resource_spans:
        resource = {one.key: one.value.string_value for one in of_process.resource.attributes}
        for span in (span for scope in of_process.scope_spans for span in scope.spans):
            yield Told(
                resource["service.name"],
                span.name,
                span.trace_id.hex(),
                span.span_id.hex(),
                span.parent_span_id.hex() or None,
                {one.key: one.value.string_value or one.value.int_value for one in span.attributes},
                tuple((one.trace_id.hex(), one.span_id.hex()) for one in span.links),
                span.status.code == 2,
            )
