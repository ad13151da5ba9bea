"""Real servers and real processes for every test that needs them.

``databases`` runs a test on SQLite and on PostgreSQL: binaries on PATH, else the ``pgserver`` wheel.
A missing server skips locally and fails where ``CI`` is set.
"""

from __future__ import annotations

import os
import shutil
import signal
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
from alexq_schema.models import ModelStore, ModelVersion
from alexq_schema.settings import Settings
from benchmarks.chaos.light import create_light
from tests.helpers.eventually import eventually
from tests.helpers.gateway import GatewayProcess, running_gateway
from tests.helpers.models import own_store
from tests.helpers.postgres import PostgresServer
from tests.helpers.processes import BUSY, WorkerProcess
from tests.helpers.s3 import S3Server

# How long an example takes is the machine's affair.
hypothesis_settings.register_profile("alexq", deadline=None, suppress_health_check=[HealthCheck.too_slow])
hypothesis_settings.load_profile("alexq")

# Several of xdist's processes share each core: threads of torch would wait for one another by spinning.
os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_configure() -> None:
    """Let tests interrupt what they start: a script's ``make test &`` ignores Ctrl-C, and hands that down."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let each of xdist's processes begin with what takes long: none begins it when the others are done.

    Every process is given an equal part of the list, and takes from the end of another's when it has no more.
    """
    processes = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    if processes == 1:
        return
    slow: dict[str, list[pytest.Item]] = {}
    rest: list[pytest.Item] = []
    for item in items:
        is_slow = item.get_closest_marker("slow") is not None
        (slow.setdefault(str(item.path), []) if is_slow else rest).append(item)
    size = len(items) // processes
    ordered: list[pytest.Item] = []
    for number in range(processes):
        ordered += [item for file in list(slow.values())[number::processes] for item in file]
        needed = max(0, (number + 1) * size - len(ordered))
        ordered, rest = ordered + rest[:needed], rest[needed:]
    items[:] = ordered + rest


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A test sees no ALEXQ_ or OTEL_ variable and no data folder of the person who runs it."""
    for name in [name for name in os.environ if name.startswith(("ALEXQ_", "OTEL_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("ALEXQ_DATA_DIR", str(tmp_path / "data"))


@pytest.fixture(scope="session")
def models_dir(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """A models folder whose active version is light; who asks what AlexNet says overrides this."""
    return _models(tmp_path_factory, worker_id, "models", create_light)


@pytest.fixture(scope="session")
def alexnet_dir(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """A models folder whose active version is a seeded untrained AlexNet."""
    from alexq_worker.inference.versions import create_untrained

    return _models(tmp_path_factory, worker_id, "alexnet", create_untrained)


def _models(
    folders: pytest.TempPathFactory, worker_id: str, name: str, create: Callable[[ModelStore], ModelVersion]
) -> Path:
    """Return a models folder whose version is made once in a run.

    Each of xdist's processes has links to its weights, in a folder of its own.
    """
    own = folders.getbasetemp()
    shared = ModelStore((own if worker_id == "master" else own.parent) / f"{name}-weights")
    with FileLock(shared.models_dir.with_suffix(".lock")):
        shared.activate(create(shared).info.ref)
        return own_store(shared.models_dir, own / name).models_dir


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
    """Start worker processes; those still running at the end are killed.

    ``image_s`` is how long a worker's device is busy with each image, where its work is to last.
    """
    started: list[WorkerProcess] = []

    def start(
        *,
        program: str | None = None,
        image_s: float | None = None,
        is_waited_for: bool = True,
        **overrides: object,
    ) -> WorkerProcess:
        log = tmp_path / f"worker-{len(started)}.log"
        if image_s is not None:
            program = BUSY.format(image_s=image_s)
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
