"""The composition of the embedded stack: what is started, in which order, and what counts as ready."""

from __future__ import annotations

import os
import socket
import sys
import time
from typing import Final

from sqlalchemy.engine import URL

from alexq.stack.broker import EmbeddedBroker, require_answer
from alexq.stack.environment import environment, free_port, require_gateway, require_monitor, require_worker
from alexq.stack.folder import FolderLock, make_data_folder
from alexq.stack.health import HealthFile
from alexq.stack.log import Log
from alexq.stack.probe import answers_http, url_of
from alexq.stack.signals import stopped_by_signals
from alexq.stack.supervisor import Child, Supervisor
from alexq.stack.workers import BEYOND_GRACE_S, WORKER_READY_S
from alexq_schema import migrations
from alexq_schema.db import workers
from alexq_schema.db.session import Database
from alexq_schema.errors import DatabaseUnavailableError
from alexq_schema.loopback import is_loopback
from alexq_schema.models import ModelStore
from alexq_schema.settings import Settings, StackFile

_BROKER_READY_S: Final = 60.0
"""Reading back a long append-only file takes a while."""
_READY_S: Final = 180.0
"""What does not start mostly ends at once; one that takes its time does so on a machine that is busy."""
_GATEWAY_GRACE_S: Final = 40.0
"""It gives the requests that it serves 30 s."""
_WEBHOOKS_GRACE_S: Final = 30.0
"""It ends the attempts in progress, of 15 s at most."""
_MODEL_S: Final = 3600.0
"""Fetching 233 MiB of weights over a slow line."""
_UMASK: Final = 0o077
"""What the stack writes (queue, database, images) is its owner's only."""


class Stack:
    """Every process of one data folder, from :meth:`start` to :meth:`stop`.

    All methods but :meth:`request_stop` belong to one thread, which must live until the stop.
    """

    def __init__(self, settings: Settings, log: Log | None = None) -> None:
        """Prepare a stack; services that ``settings`` already name are used, not started."""
        self._log = log or Log()
        self._supervisor = Supervisor(self._log)
        self._lock = FolderLock(settings.data_dir)
        self._settings = settings
        self._database: Database | None = None
        self._wrote_stack_file = False

    def request_stop(self) -> None:
        """Ask for a clean stop; asked again, for an immediate one. For signal handlers."""
        self._supervisor.request_stop()

    def start(self) -> bool:
        """Start everything; return True when all of it serves, False if a stop was asked for before.

        Raises:
            StackRunningError: another stack holds the data folder.
            StackError: a part could not be started.
            UnavailableError: the broker or database that the settings name does not answer.
            MigrationError: the database was written by a newer release.
        """
        started_at = time.monotonic()
        require_worker()
        require_gateway()
        require_monitor()
        os.umask(_UMASK)  # for this process, and the children inherit it
        make_data_folder(self._settings.data_dir)
        self._lock.take()
        # Whoever wrote it held the lock: what is there now was left by a supervisor that was killed.
        StackFile.path(self._settings.data_dir).unlink(missing_ok=True)
        self._log.say(f"data folder {self._settings.data_dir}")
        if not (self._start_broker() and self._prepare_database() and self._ensure_model()):
            return False
        if not (self._start_worker() and self._start_monitor() and self._start_gateway()):
            return False
        if not self._start_webhooks():
            return False
        self._write_stack_file()
        self._log.say(f"ready after {time.monotonic() - started_at:.1f} s")
        self._log.say(f"dashboard {self._monitor_url}")
        self._log.say(f"page      {self._gateway_url} (and the HTTP gateway)")
        self._log.say(f"submit:   alexq submit PATH… --data-dir {self._settings.data_dir}")
        self._log.say("Ctrl-C stops everything")
        return True

    def watch(self) -> None:
        """Keep the parts running until a stop is asked for."""
        self._supervisor.watch()

    def stop(self) -> None:
        """Stop everything in reverse order and leave no process behind. Idempotent."""
        if self._wrote_stack_file:
            StackFile.path(self._settings.data_dir).unlink(missing_ok=True)
            self._wrote_stack_file = False
        self._supervisor.stop()
        if self._database is not None:
            self._database.close()
            self._database = None
        self._lock.release()

    def _start_broker(self) -> bool:
        if self._settings.broker_url:
            require_answer(self._settings.broker_url)
            return True
        broker = EmbeddedBroker.configure(self._settings.data_dir / "broker")
        self._settings = self._settings.model_copy(update={"broker_url": broker.url})
        return self._start(
            Child(
                name="broker",
                argv=broker.argv,
                env=os.environ,
                is_ready=lambda _pid: broker.is_ready(),
                ready_timeout_s=_BROKER_READY_S,
            )
        )

    def _prepare_database(self) -> bool:
        if not self._settings.database_url:
            url = URL.create("sqlite", database=str(self._settings.data_dir / "alexq.db"))
            self._settings = self._settings.model_copy(update={"database_url": url.render_as_string()})
        migrations.upgrade(self._settings.database_url)
        self._database = Database(self._settings.database_url)
        self._log.say("database is ready")
        return not self._supervisor.is_stopping

    def _ensure_model(self) -> bool:
        store = ModelStore(self._settings.models_dir)
        if not (self._settings.model or store.active_ref()):
            self._log.say("no model yet: fetching torchvision's pretrained AlexNet (233 MiB, only once)")
        ref = self._supervisor.run_to_end(
            "model",
            [sys.executable, "-m", "alexq_worker.models", "ensure"],
            environment(self._settings),
            _MODEL_S,
        )
        if ref is None:
            return False
        self._log.say(f"model {ref.strip()}")
        if not store.find(ref.strip()).info.trained:
            self._log.warn(
                "this model is UNTRAINED: its labels mean nothing; for real ones run "
                "`alexq models pull`, then `alexq models activate NAME/VERSION`, and start again"
            )
        return True

    def _start_worker(self) -> bool:
        database = self._database
        assert database is not None

        def is_ready(pid: int) -> bool:
            try:
                with database.read() as connection:
                    rows = workers.alive(connection, self._settings.silent_after_s)
            except DatabaseUnavailableError:
                return False
            return any(row.pid == pid and row.host == socket.gethostname() for row in rows)

        return self._start(
            Child(
                name="worker",
                argv=[sys.executable, "-m", "alexq_worker"],
                env=environment(self._settings),
                is_ready=is_ready,
                ready_timeout_s=WORKER_READY_S,
                grace_s=self._settings.stop_grace_s + BEYOND_GRACE_S,
                is_healthy=HealthFile(self._settings.health_file).is_fresh,
            )
        )

    def _start_gateway(self) -> bool:
        address = self._settings.gateway_address
        port = self._port("gateway", address, self._settings.gateway_port)
        dashboard = self._settings.dashboard_url or self._monitor_url
        self._settings = self._settings.model_copy(update={"gateway_port": port, "dashboard_url": dashboard})
        return self._start(
            Child(
                name="gateway",
                argv=[sys.executable, "-m", "alexq_producer.gateway"],
                env=environment(self._settings),
                is_ready=lambda _pid: answers_http(address, port, "/healthz"),
                ready_timeout_s=_READY_S,
                grace_s=_GATEWAY_GRACE_S,
            )
        )

    def _start_webhooks(self) -> bool:
        health = HealthFile(self._settings.webhooks_health_file)
        return self._start(
            Child(
                name="webhooks",
                argv=[sys.executable, "-m", "alexq_producer.webhooks"],
                env=environment(self._settings),
                is_ready=health.exists,
                ready_timeout_s=_READY_S,
                grace_s=_WEBHOOKS_GRACE_S,
                is_healthy=health.is_fresh,
            )
        )

    def _start_monitor(self) -> bool:
        address = self._settings.monitor_address
        port = self._port("dashboard", address, self._settings.monitor_port)
        own = {"monitor_port": port}
        if "monitor_admin" not in self._settings.model_fields_set:
            own["monitor_admin"] = is_loopback(address)  # whoever started the stack is the one who sees it
        self._settings = self._settings.model_copy(update=own)
        return self._start(
            Child(
                name="monitor",
                argv=[sys.executable, "-m", "alexq_monitor"],
                env=environment(self._settings),
                is_ready=lambda _pid: answers_http(address, port, "/healthcheck"),
                ready_timeout_s=_READY_S,
            )
        )

    def _port(self, what: str, address: str, wanted: int) -> int:
        port = free_port(address, wanted)
        if wanted and port != wanted:
            self._log.warn(f"port {wanted} is taken: the {what} is on {port}")
        return port

    def _start(self, child: Child) -> bool:
        started_at = time.monotonic()
        is_up = self._supervisor.start(child)
        if is_up:
            self._log.say(f"{child.name} is ready ({time.monotonic() - started_at:.1f} s)")
        return is_up

    @property
    def _monitor_url(self) -> str:
        return url_of(self._settings.monitor_address, self._settings.monitor_port)

    @property
    def _gateway_url(self) -> str:
        return url_of(self._settings.gateway_address, self._settings.gateway_port)

    def _write_stack_file(self) -> None:
        stack = StackFile(
            pid=os.getpid(),
            database_url=self._settings.database_url,
            broker_url=self._settings.broker_url,
            images_url=self._settings.images_url,
            models_dir=self._settings.models_dir,
            monitor_url=self._monitor_url,
            gateway_url=self._gateway_url,
        )
        stack.write(self._settings.data_dir)
        self._wrote_stack_file = True


def run(settings: Settings) -> None:
    """Run a stack until Ctrl-C or SIGTERM, then stop it cleanly. For the main thread.

    Raises:
        AlexqError: it could not be started; what had been started is stopped again.
    """
    log = Log(log_format=settings.log_format)
    stack = Stack(settings, log)
    with stopped_by_signals(stack.request_stop):
        try:
            if stack.start():
                stack.watch()
            log.say("stopping (Ctrl-C again to hurry)")
        finally:
            stack.stop()
    log.say("stopped")
