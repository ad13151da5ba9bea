"""Every process works through PgBouncer in transaction pooling: nothing needs a session."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import text

from alexq_producer import Producer
from alexq_schema import migrations
from alexq_schema.db.session import Database
from alexq_schema.job import JobState
from alexq_schema.settings import Settings
from tests.helpers.gateway import running_gateway
from tests.helpers.monitor import running_monitor
from tests.helpers.pgbouncer import PROGRAM, pgbouncer_before
from tests.helpers.photos import distinct, encode, photo_crops
from tests.helpers.postgres import PostgresServer
from tests.helpers.processes import WorkerProcess


@pytest.fixture
def needs_pgbouncer() -> None:
    if PROGRAM is None:
        pytest.skip("no pgbouncer: apt-get install pgbouncer")


@pytest.fixture
def database_url(needs_pgbouncer: None, postgres_url: str) -> Iterator[str]:
    with pgbouncer_before(postgres_url) as url:
        yield url


def prepared(database: Database) -> int:
    """Return how many statements a connection has prepared after many times the same one."""
    with database.read() as connection:
        for number in range(20):
            connection.execute(text("SELECT CAST(:number AS integer)"), {"number": number})
        return int(connection.execute(text("SELECT count(*) FROM pg_prepared_statements")).scalar_one())


def test_statements_are_prepared_only_where_the_session_is_ones_own(
    database_url: str, postgres_url: str
) -> None:
    for url, is_own in ((postgres_url, True), (database_url, False)):
        database = Database(url)
        assert bool(prepared(database)) is is_own
        database.close()


def test_many_threads_share_few_sessions(database: Database) -> None:
    def ask(number: int) -> int:
        with database.begin() as connection:
            statement = text("SELECT CAST(:number AS integer) + pg_backend_pid() * 0")
            return int(connection.execute(statement, {"number": number}).scalar_one())

    with ThreadPoolExecutor(12) as threads:
        assert list(threads.map(ask, range(600))) == list(range(600))


def test_jobs_are_done_through_a_pooler(
    settings: Settings, start_worker: Callable[..., WorkerProcess], tmp_path: Path
) -> None:
    photo = encode(photo_crops(1)[0], "JPEG")
    workers = [start_worker(silent_after_s=300.0) for _ in range(2)]
    with Producer(settings) as producer:
        jobs = producer.submit(distinct([photo], 200)).wait(150)
        jobs += [producer.classify(photo) for _ in range(10)]
    with running_gateway(settings, tmp_path / "gateway.log") as gateway, gateway.client() as client:
        headers = {"Content-Type": "image/jpeg", "Prefer": "wait=60"}
        answers = [client.post("/v1/jobs", content=photo, headers=headers).json() for _ in range(10)]
    with running_monitor(settings, tmp_path / "monitor.log") as monitor:
        pages = [monitor.get(path).status_code for path in ("/overview", "/results", "/models") * 3]

    assert {(job.state, job.attempt) for job in jobs} == {(JobState.SUCCEEDED, 1)}
    assert {answer["state"] for answer in answers} == {"succeeded"}
    assert set(pages) == {200}
    assert [worker.terminate() for worker in workers] == [0, 0]


def test_a_database_is_migrated_through_a_pooler(
    needs_pgbouncer: None, postgres_server: PostgresServer
) -> None:
    with postgres_server.database() as empty, pgbouncer_before(empty) as url:
        program = "import sys; from alexq_schema import migrations; migrations.upgrade(sys.argv[1])"
        upgrades = [subprocess.Popen([sys.executable, "-c", program, url]) for _ in range(2)]
        assert [upgrade.wait(150) for upgrade in upgrades] == [0, 0]
        migrations.require_usable(url)
