"""A real gateway process under a test's control."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import psutil

from alexq.stack.environment import environment
from alexq_schema import keys
from alexq_schema.db import api_keys
from alexq_schema.db.session import Database
from alexq_schema.keys import Scope
from alexq_schema.settings import Settings
from tests.helpers import nursery
from tests.helpers.eventually import eventually
from tests.helpers.ports import free_port

JPEG = {"Content-Type": "image/jpeg"}
NAME = "alexq_producer.gateway"

PATIENT = """
import sys
from alexq_producer.gateway import rate
from alexq_producer.gateway.__main__ import main
rate.TIMEOUT_S = 3.0
sys.exit(main())
"""
"""With a rate: Redis does not answer in 0.15 s on every busy machine, and then a request is not counted."""


class GatewayProcess:
    """``python -m alexq_producer.gateway``, its log in a file."""

    def __init__(self, settings: Settings, log: Path) -> None:
        port = free_port(settings.gateway_address)
        self.settings = settings.model_copy(update={"gateway_port": port})
        self.url = f"http://127.0.0.1:{port}"
        self.log = log
        self.start()

    def start(self) -> None:
        """Start it, again after :meth:`kill`; returns when it answers."""
        program = ["-c", PATIENT] if self.settings.gateway_rate else ["-m", NAME]
        self.process = nursery.start(program, log=self.log, env=environment(self.settings), of=NAME)
        eventually(self._answers, 150, what="the gateway answers")

    def _answers(self) -> bool:
        assert self.process.poll() is None, f"the gateway exited:\n{self.log.read_text()}"
        try:
            return httpx2.get(f"{self.url}/healthz", trust_env=False).status_code == 200
        except httpx2.TransportError:
            return False

    def client(self, key: str | None = None, **options: Any) -> httpx2.Client:
        """Return an HTTP client of it, with this API key."""
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        return httpx2.Client(base_url=self.url, headers=headers, trust_env=False, timeout=200, **options)

    def rss_bytes(self) -> int:
        """Return the resident memory of the process."""
        return int(psutil.Process(self.process.pid).memory_info().rss)

    def kill(self) -> None:
        """Send SIGKILL, if it still runs, and reap it."""
        self.process.kill()
        self.process.wait(60)


@contextmanager
def running_gateway(settings: Settings, log: Path) -> Iterator[GatewayProcess]:
    """Run a gateway; whatever becomes of it, it is gone afterwards."""
    gateway = GatewayProcess(settings, log)
    try:
        yield gateway
    finally:
        gateway.kill()


def make_key(settings: Settings, tenant: str, *scopes: Scope) -> str:
    """Return a new API key, by default with the scopes submit and read."""
    key = keys.new_key()
    database = Database(settings.database_url)
    with database.begin() as connection:
        api_keys.add(
            connection,
            tenant=tenant,
            name="a test",
            scopes=scopes or (Scope.SUBMIT, Scope.READ),
            sha256=keys.hash_of(key),
        )
    database.close()
    return key
