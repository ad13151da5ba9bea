"""An S3 server on loopback (moto's), whose objects a test can age and whose reads it can hold and count.

python -m tests.helpers.s3_server     (prints its port; ends with its standard input)
"""

from __future__ import annotations

import json
import re
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qs

from moto.s3.models import s3_backends
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

IMAGE = re.compile(r"/[0-9a-f]{2}/[0-9a-f]{64}$")
HOLD_S = 30.0
Wsgi = Callable[[dict[str, Any], Any], Iterable[bytes]]


class Watched:
    """Counts requests for images by method, and can hold reads until so many are under way at once."""

    def __init__(self, app: Wsgi) -> None:
        self._app = app
        self._changed = threading.Condition()
        self._reset()

    def _reset(self) -> None:
        self._seen: Counter[str] = Counter()
        self._reading = self._most = self._hold = 0

    def __call__(self, request: dict[str, Any], respond: Any) -> Iterable[bytes]:
        path = request["PATH_INFO"]
        if path.startswith("/_control/"):
            return self._control(path.removeprefix("/_control/"), request, respond)
        if not IMAGE.search(path) or "/locks/" in path:
            return self._app(request, respond)
        method = request["REQUEST_METHOD"]
        with self._changed:
            self._seen[method] += 1
            if method == "GET":
                self._reading += 1
                self._most = max(self._most, self._reading)
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._most >= self._hold, HOLD_S)
        try:
            return self._app(request, respond)
        finally:
            if method == "GET":
                with self._changed:
                    self._reading -= 1

    def _control(self, what: str, request: dict[str, Any], respond: Any) -> Iterable[bytes]:
        query = {name: values[0] for name, values in parse_qs(request["QUERY_STRING"]).items()}
        with self._changed:
            if what == "age":
                _key(query).last_modified -= timedelta(seconds=float(query["by_s"]))
            elif what == "hold":
                self._reset()
                self._hold = int(query["reads"])
        respond("200 OK", [("Content-Type", "application/json")])
        return [json.dumps({**self._seen, "reads_at_once": self._most}).encode()]


def _key(query: dict[str, str]) -> Any:
    buckets = s3_backends["123456789012"]["aws"].buckets
    return buckets[query["bucket"]].keys[query["key"]]


def main() -> None:
    """Serve until standard input ends."""
    app = DomainDispatcherApplication(create_backend_app)
    server = make_server("127.0.0.1", 0, Watched(app), threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(server.server_port, flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
