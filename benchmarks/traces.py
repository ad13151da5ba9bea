"""What tracing costs a worker for a job: off, on for jobs that nobody traces, and on with every job sampled.

    python -m benchmarks.traces [--rounds 5] [--jobs 6000]

One real worker with a pause for a device, which asks it for 1,000 jobs/s in batches of 64, so that every
span goes out; a collector in this process takes them. Rounds alternate; figures are medians of the worker's
CPU time, its thread that sends spans included.
"""

from __future__ import annotations

import argparse
import os
import statistics
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from benchmarks.scale.measure import Plan, measure
from benchmarks.scale.services import stage

ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
SAMPLED = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
DEVICE_MS = 64.0
VARIANTS = {
    "off": (False, None),
    "on, no job sampled": (True, None),
    "on, every job sampled": (True, SAMPLED),
}


class Collector:
    """Takes spans, and counts them afterwards."""

    def __init__(self) -> None:
        self._bodies: list[bytes] = []
        bodies = self._bodies

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def take(self) -> int:
        """Return how many spans have come since the last call."""
        taken, self._bodies[:] = list(self._bodies), []
        found = 0
        for body in taken:
            for of_process in ExportTraceServiceRequest.FromString(body).resource_spans:
                found += sum(len(scope.spans) for scope in of_process.scope_spans)
        return found


@contextmanager
def variable(name: str, value: str | None) -> Iterator[None]:
    """Set an environment variable while the context lasts."""
    if value is not None:
        os.environ[name] = value
    try:
        yield
    finally:
        os.environ.pop(name, None)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=6_000)
    arguments = parser.parse_args()
    collector = Collector()
    used: dict[str, list[float]] = {name: [] for name in VARIANTS}
    with stage() as where:
        for number in range(arguments.rounds):
            for name, (is_on, traceparent) in VARIANTS.items():
                plan = Plan("sqlite", "bulk", 1, DEVICE_MS, arguments.jobs, traceparent=traceparent)
                with variable(ENDPOINT, collector.url if is_on else None):
                    row = measure(where, plan)
                used[name].append(row["cpu_us_per_job"]["workers"])
                spans = collector.take() / arguments.jobs
                print(f"{number + 1} {name}: {used[name][-1]:.0f} µs a job, {spans:.2f} spans a job")
    off = statistics.median(used["off"])
    for name, figures in used.items():
        middle = statistics.median(figures)
        print(f"{name}: {middle:.0f} µs a job (+ {middle - off:.0f}), {min(figures):.0f}–{max(figures):.0f}")


if __name__ == "__main__":
    main()
