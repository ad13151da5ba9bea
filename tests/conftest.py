"""Real servers and real processes for every test that needs them.

``databases`` runs a test on SQLite and on PostgreSQL: binaries on PATH, else the ``pgserver`` wheel.
A missing server skips locally and fails where ``CI`` is set.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis
from celery import Celery
from filelock import FileLock
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings

from alexq_producer import Producer
from alexq_schema import migrations
from alexq_schema.celery_settings import celery_config
from alexq_schema.db.session import Database
from alexq_schema.models import ModelStore
from alexq_schema.settings import Settings
from tests.helpers.eventually import eventually
from tests.helpers.gateway import GatewayProcess, running_gateway
from tests.helpers.postgres import PostgresServer
from tests.helpers.processes import WorkerProcess
from tests.helpers.s3 import S3Server

# How long an example takes is the machine's affair.
hypothesis_settings.register_profile("alexq", deadline=None, suppress_health_check=[HealthCheck.too_slow])
hypothesis_settings.load_profile("alexq")


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A test sees no ALEXQ_ or OTEL_ variable and no data folder of the person who runs it."""
    for name in [name for name in os.environ if name.startswith(("ALEXQ_", "OTEL_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("ALEXQ_DATA_DIR", str(tmp_path / "data"))


@pytest.fixture(scope="session")
def models_dir(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """A models folder whose active version is a seeded untrained AlexNet.

    Its 244 MB are made once in a run; each of xdist's processes has links to them, in a folder of its own.
    """
    from alexq_worker.inference.versions import create_untrained

    own = tmp_path_factory.getbasetemp()
    shared = ModelStore((own if worker_id == "master" else own.parent) / "weights")
    with FileLock(shared.models_dir.with_suffix(".lock")):
        shared.activate(create_untrained(shared).info.ref)

    def copy(source: str, target: str) -> str:
        is_large = source.endswith(".safetensors")
        os.link(source, target) if is_large else shutil.copy2(
            source, target
        )  # else who writes one writes all
        return target

    return shutil.copytree(shared.models_dir, own / "models", symlinks=True, copy_function=copy)


@pytest.fixture(scope="session")
def broker_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Redis-protocol server of this test session; yields its URL."""
    from alexq.stack.broker import EmbeddedBroker

    broker = EmbeddedBroker.configure(tmp_path_factory.mktemp("broker"))
    process = subprocess.Popen(broker.argv, stdout=subprocess.DEVNULL)
    try:
        eventually(broker.is_ready, what="the broker answers")
        yield broker.url
    finally:
        process.terminate()
        process.wait(60)


@pytest.fixture
def broker_url(broker_server: str) -> str:
    """The session's broker, emptied."""
    client = redis.Redis.from_url(broker_server)
    client.flushall()
    client.close()
    return broker_server


@pytest.fixture
def client(broker_url: str) -> Iterator[redis.Redis]:
    """A client of ``broker_url``."""
    with redis.Redis.from_url(broker_url) as client:
        yield client


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """An S3 server of this test session."""
    server = S3Server(tmp_path_factory.mktemp("s3") / "log")
    yield server
    server.stop()


@pytest.fixture
def s3(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    """The session's S3 server, to which the environment leads."""
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    return s3_server


@pytest.fixture(scope="session")
def postgres_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    """A PostgreSQL server of this test session."""
    server = PostgresServer.start(tmp_path_factory.mktemp("postgres"))
    if server is None:
        message = "no PostgreSQL: neither binaries on PATH nor the pgserver wheel"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated SQLite database, to be copied."""
    path = tmp_path_factory.mktemp("template") / "alexq.db"
    migrations.upgrade(f"sqlite:///{path}")
    return path


@pytest.fixture
def sqlite_url(sqlite_template: Path, tmp_path: Path) -> str:
    """A migrated SQLite database of this test's own."""
    return f"sqlite:///{shutil.copy(sqlite_template, tmp_path / 'alexq.db')}"


@pytest.fixture(scope="session")
def postgres_template(postgres_server: PostgresServer) -> Iterator[str]:
    """A migrated PostgreSQL database, to be copied."""
    with postgres_server.database() as url:
        migrations.upgrade(url)
        yield url


@pytest.fixture
def postgres_url(postgres_server: PostgresServer, postgres_template: str) -> Iterator[str]:
    """A migrated PostgreSQL database of this test's own."""
    with postgres_server.database(postgres_template) as url:
        yield url


@pytest.fixture(params=["sqlite", "postgres"])
def database_url(request: pytest.FixtureRequest) -> str:
    """A migrated database: the test runs once on each kind."""
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """Connections to ``database_url``."""
    database = Database(database_url)
    yield database
    database.close()


@pytest.fixture
def settings(database_url: str, broker_url: str, models_dir: Path, tmp_path: Path) -> Settings:
    """Settings of a system of this test's own, quick to notice a dead worker."""
    return Settings.load(
        data_dir=tmp_path / "data",
        database_url=database_url,
        broker_url=broker_url,
        models_dir=models_dir,
        heartbeat_s=0.5,
        silent_after_s=3.0,
    )


@pytest.fixture
def producer(settings: Settings) -> Iterator[Producer]:
    """A producer on ``settings``."""
    with Producer(settings) as producer:
        yield producer


@pytest.fixture
def gateway(settings: Settings, tmp_path: Path) -> Iterator[GatewayProcess]:
    """A gateway process on ``settings``."""
    with running_gateway(settings, tmp_path / "gateway.log") as gateway:
        yield gateway


@pytest.fixture
def sender(settings: Settings) -> Iterator[Celery]:
    """A Celery app that sends as producers do."""
    app = Celery("sender", set_as_current=False)
    app.conf.update(celery_config(settings))
    yield app
    app.close()


@pytest.fixture
def start_worker(settings: Settings, tmp_path: Path) -> Iterator[Callable[..., WorkerProcess]]:
    """Start worker processes; those still running at the end are killed."""
    started: list[WorkerProcess] = []

    def start(
        *, program: str | None = None, is_waited_for: bool = True, **overrides: object
    ) -> WorkerProcess:
        log = tmp_path / f"worker-{len(started)}.log"
        worker = WorkerProcess(
            settings.model_copy(update=overrides), log, python=sys.executable, program=program
        )
        started.append(worker)
        if is_waited_for:
            worker.wait_ready()
        return worker

    yield start
    for worker in started:
        worker.kill()
