"""What ``/metrics`` tells: requests and images of this gateway process, without tenants or ids.

What waits and what workers do is not here: every gateway would tell the same.
"""

from __future__ import annotations

import time
from http import HTTPMethod
from typing import Any, Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.exposition import choose_encoder
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from alexq_schema.names import Lane

BUCKETS_S: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 600.0)
"""From an answer at once to a wait of ``Prefer: wait=60`` and a large upload."""

NO_OPERATION: Final = "none"
"""Requests to paths that are none of ours, whatever they were."""

_METHODS: Final = frozenset(HTTPMethod)


class Metrics:
    """The metrics of one application, in a registry of its own."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        of: dict[str, Any] = {"namespace": "alexq", "subsystem": "gateway", "registry": self._registry}
        self._in_flight = Gauge("requests_in_flight", "Requests that are being served.", **of)
        self._requests = Counter(
            "requests",
            "Requests answered, by operation of the OpenAPI document.",
            ("operation", "method", "status"),
            **of,
        )
        self._duration = Histogram(
            "request_duration_seconds",
            "From a request's head to the end of its answer.",
            ("operation",),
            buckets=BUCKETS_S,
            **of,
        )
        self._received = Counter("received_bytes", "Bytes of request bodies.", ("operation",), **of)
        self._accepted = Counter("images_accepted", "Images that became jobs.", ("lane",), **of)
        self._refused = Counter(
            "images_refused", "Images that were refused, by the code of their error.", ("code",), **of
        )
        self._throttled = Counter(
            "throttled",
            "Requests with images that were told to come later, by the code of the error.",
            ("code",),
            **of,
        )

    def accepted(self, lane: Lane, images: int) -> None:
        """Count images that became jobs."""
        self._accepted.labels(lane.value).inc(images)

    def refused(self, code: str) -> None:
        """Count an image that was refused."""
        self._refused.labels(code).inc()

    def throttled(self, code: str) -> None:
        """Count a request that was told to come later."""
        self._throttled.labels(code).inc()

    def began(self) -> None:
        """Count a request in."""
        self._in_flight.inc()

    def ended(self, scope: Scope, status: int, duration_s: float, received_bytes: int) -> None:
        """Count a request out."""
        self._in_flight.dec()
        operation = getattr(scope.get("route"), "operation_id", None) or NO_OPERATION
        method = scope["method"] if scope["method"] in _METHODS else "other"
        self._requests.labels(operation, method, status).inc()
        self._duration.labels(operation).observe(duration_s)
        if received_bytes:
            self._received.labels(operation).inc(received_bytes)

    def exposed(self, accept: str) -> tuple[bytes, str]:
        """Return all metrics in the best format that ``accept`` names, and its media type."""
        encode, media_type = choose_encoder(accept)
        return encode(self._registry), media_type


class Measured:
    """Middleware that counts every request in and out."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status, received_bytes, began_at = 500, 0, time.perf_counter()  # an error that nobody caught

        async def counted() -> Message:
            nonlocal received_bytes
            message = await receive()
            received_bytes += len(message.get("body", b""))
            return message

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        self._metrics.began()
        try:
            await self._app(scope, counted, noted)
        finally:
            self._metrics.ended(scope, status, time.perf_counter() - began_at, received_bytes)
