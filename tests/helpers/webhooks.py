"""A receiver of webhooks on loopback, and webhook workers that are in a hurry, under a test's control."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from uuid import UUID

from sqlalchemy import update

from alexq.stack.environment import environment
from alexq_schema.db import delivery_log, webhooks
from alexq_schema.db.clock import db_now
from alexq_schema.db.deliveries import Notice, WebhookDelivery
from alexq_schema.db.delivery_log import DeliveryRow
from alexq_schema.db.session import Database
from alexq_schema.settings import Settings
from alexq_schema.webhooks import Event
from tests.helpers import nursery
from tests.helpers.eventually import eventually
from tests.helpers.system import System, success

HURRIED = "Pace(pauses_s=(0.2,) * 9, timeout_s=60, lease_s=180, look_every_s=0.1)"
"""Tries again soon, and waits for as long as a busy machine may take."""

PROGRAM = """\
from alexq_producer.webhooks.app import Process
from alexq_producer.webhooks.pace import Pace
from alexq_schema import process
Process(process.begin("webhooks"), {pace}).run()
"""


@dataclass(frozen=True)
class Received:
    """One request that came."""

    path: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def delivery_id(self) -> UUID:
        """Its ``webhook-id``."""
        return UUID(self.headers["webhook-id"])

    @property
    def told(self) -> dict[str, Any]:
        """Its JSON."""
        told: dict[str, Any] = json.loads(self.body)
        return told


@dataclass
class Receiver:
    """A real HTTP server; with ``answer``, what it answers: status and headers. It may take its time."""

    answer: Callable[[Received], tuple[int, Mapping[str, str]]] = lambda _received: (204, {})
    received: list[Received] = field(default_factory=list)

    def __enter__(self) -> Self:
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                headers = {name.lower(): value for name, value in self.headers.items()}
                received = Received(self.path, headers, body)
                receiver.received.append(received)
                status, told = receiver.answer(received)
                try:
                    self.send_response(status)
                    for name, value in {"Content-Length": "0", **told}.items():
                        self.send_header(name, value)
                    self.end_headers()
                except OSError:
                    pass  # whoever asked has gone

            def log_message(self, *_: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 64

            def handle_error(self, *_: object) -> None:
                pass  # whoever asked was killed

        self._server = Server(("127.0.0.1", 0), Handler)
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def url(self, path: str = "/hook", host: str = "127.0.0.1") -> str:
        """Return where it listens."""
        return f"http://{host}:{self.port}{path}"

    def ids(self) -> list[UUID]:
        """Return the ids that came, as often as they came."""
        return [one.delivery_id for one in self.received]

    def wait_for(self, count: int, timeout_s: float = 150.0) -> list[Received]:
        """Return what came, when that is at least ``count`` requests."""
        eventually(lambda: len(self.received) >= count, timeout_s, what=f"{count} requests come")
        return list(self.received)


class WebhookWorker:
    """``python -m alexq_producer.webhooks``, its log in a file."""

    def __init__(self, settings: Settings, log: Path, pace: str = HURRIED) -> None:
        self.settings = settings
        self.log = log
        self.process = nursery.start(
            ["-c", PROGRAM.format(pace=pace)],
            log=log,
            env=environment(settings),
            of="alexq_producer.webhooks",
        )
        health = Path(str(settings.webhooks_health_file).replace("{pid}", str(self.process.pid)))

        def is_ready() -> bool:
            assert self.process.poll() is None, f"the webhook worker exited:\n{log.read_text()}"
            return health.exists()

        eventually(is_ready, 200, what="the webhook worker looks for work")

    def terminate(self) -> int:
        """Send SIGTERM and return the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(150)

    def kill(self) -> None:
        """Send SIGKILL, if it still runs, and reap it."""
        self.process.kill()
        self.process.wait(60)


@contextmanager
def delivering(settings: Settings, log: Path, pace: str = HURRIED) -> Iterator[WebhookWorker]:
    """Run a webhook worker; whatever becomes of it, it is gone afterwards."""
    worker = WebhookWorker(settings, log, pace)
    try:
        yield worker
    finally:
        worker.kill()


def register(database: Database, url: str, tenant: str | None = None) -> tuple[UUID, str]:
    """Return the id and the secret of a new webhook."""
    with database.begin() as connection:
        return webhooks.add(connection, tenant=tenant, url=url)


def finish_one(system: System, webhook_id: UUID, event: Event = Event.JOB_FINISHED, jobs: int = 1) -> None:
    """Hand in a submission that tells this webhook, and let it succeed."""
    job_ids = system.queue(jobs, notice=Notice(webhook_id, event))
    system.commit([success(claim) for claim in system.claim(job_ids)])


def deliveries_of(database: Database, webhook_id: UUID) -> list[DeliveryRow]:
    """Return a webhook's deliveries, oldest first."""
    with database.read() as connection:
        found = delivery_log.page(connection, None, webhook_id, state=None, after=None, limit=10_000)
    return found[::-1]


def make_due(database: Database) -> None:
    """Let time pass until every pending delivery is due."""
    with database.begin() as connection:
        connection.execute(update(WebhookDelivery).values(due_at=db_now(-0.001)))
