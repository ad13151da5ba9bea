"""The dashboard as a process under a test's control."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import httpx2

from alexq.stack.environment import environment
from alexq_schema.settings import Settings
from tests.helpers import nursery
from tests.helpers.eventually import eventually
from tests.helpers.ports import free_port


class MonitorProcess:
    """``python -m alexq_monitor``, and a client that talks to it as a browser does."""

    def __init__(self, settings: Settings, log: Path, env: Mapping[str, str]) -> None:
        self.settings, self.log = settings, log
        self.process = nursery.start(["-m", "alexq_monitor"], log=log, env={**environment(settings), **env})
        self.url = f"http://127.0.0.1:{settings.monitor_port}"
        self.client = httpx2.Client(base_url=self.url, timeout=200.0)

    def is_up(self) -> bool:
        """Return whether it answers, with or without a prefix."""
        assert self.process.poll() is None, self.log.read_text()
        try:
            return self.client.get("/healthcheck").status_code in (200, 404)
        except httpx2.TransportError:
            return False

    def get(self, path: str, **headers: str) -> httpx2.Response:
        """Ask for a page."""
        return self.client.get(path, headers=headers)

    def post(self, path: str, data: Mapping[str, str], page: str, **headers: str) -> httpx2.Response:
        """Send a form that was shown on ``page``."""
        match = re.search(r'name="_xsrf" value="([^"]+)"', self.get(page).text)
        token = {} if match is None else {"_xsrf": match.group(1)}
        return self.client.post(path, data={**data, **token}, headers=headers)


@contextmanager
def running_monitor(
    settings: Settings, log: Path, env: Mapping[str, str] | None = None
) -> Iterator[MonitorProcess]:
    """Run a dashboard until the context ends; it has written no stack trace."""
    settings = settings.model_copy(update={"monitor_port": free_port()})
    monitor = MonitorProcess(settings, log, env or {})
    try:
        eventually(monitor.is_up, 150, what="the dashboard answers")
        yield monitor
    finally:
        monitor.process.kill()
        monitor.process.wait(60)
        monitor.client.close()
    assert "Traceback" not in log.read_text(), log.read_text()
