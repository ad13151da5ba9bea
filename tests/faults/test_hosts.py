"""Several hosts, one of which loses its network and gets it back: every job has one result."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Row, func, select

from alexq.stack.broker import EmbeddedBroker, require_answer
from alexq_producer import Producer
from alexq_producer.submission import Submission
from alexq_schema import migrations
from alexq_schema.db.session import Database
from alexq_schema.db.tables import Job as JobRow
from alexq_schema.db.tables import Worker
from alexq_schema.errors import BrokerUnavailableError
from alexq_schema.job import JobState
from alexq_schema.settings import Settings
from benchmarks.chaos.processes import Processes
from benchmarks.chaos.servers import PostgresBinaries, PostgreSQL
from tests.helpers.eventually import eventually
from tests.helpers.held import Held
from tests.helpers.hosts import NETWORK, SERVICES_ADDRESS, Host, Hosts, NotPermittedError, hosts
from tests.helpers.photos import distinct, encode, photo_crops
from tests.helpers.processes import BUSY, WorkerProcess

WORK = BUSY.format(image_s=0.03)

STAYS_IN_A_TRANSACTION = """
import time
from pathlib import Path
from alexq_schema.db import session
from alexq_worker import sweeper
session.IDLE_IN_TRANSACTION_S = 3.0
hold = sweeper.sweeper.hold
def stays(*args, **kwargs):
    is_ours = hold(*args, **kwargs)
    if is_ours and Path({folder!r}, "hold").exists():
        Path({folder!r}, "held").touch()
        while not Path({folder!r}, "go on").exists():
            time.sleep(0.05)
    return is_ours
sweeper.sweeper.hold = stays
"""
"""A worker that can be unplugged while it holds the sweeper's lease and has not committed that."""


@pytest.fixture(scope="module")
def network() -> Iterator[Hosts]:
    """Two hosts beside that of the services."""
    with ExitStack() as made:
        try:
            network = made.enter_context(hosts(2))
        except NotPermittedError as error:
            pytest.skip(str(error))
        yield network


@pytest.fixture(scope="module")
def services(network: Hosts) -> Iterator[tuple[str, str]]:
    """Database and broker on a host of their own; yields their URLs."""
    processes = Processes()
    # Not below pytest's own folder, which is closed to the user that PostgreSQL runs as for root.
    folder = Path(tempfile.mkdtemp(prefix="alexq-hosts-"))
    folder.chmod(0o755)
    try:
        binaries = PostgresBinaries()
        template = binaries.make_template(folder / "template")
        database = PostgreSQL(processes, binaries, template, folder / "postgres", SERVICES_ADDRESS)
        with (database.data / "pg_hba.conf").open("a") as access:
            access.write(f"host all all {NETWORK} trust\n")
        broker = EmbeddedBroker.configure(folder / "broker")
        broker_url = broker.url.replace("127.0.0.1", SERVICES_ADDRESS)
        with network.services.entered():
            processes.start([*broker.argv, "--bind", SERVICES_ADDRESS], log=folder / "broker.log")
            database.start()
            processes.wait_for(lambda: answers(broker_url), 60, what="the broker answers")
            migrations.upgrade(database.url)
        yield database.url, broker_url
    finally:
        processes.end_all()
        shutil.rmtree(folder)


def answers(broker_url: str) -> bool:
    try:
        require_answer(broker_url, 1.0)
    except BrokerUnavailableError:
        return False
    return True


class Rack:
    """A worker on each host, what the services say of them, and a producer beside the services."""

    def __init__(self, network: Hosts, settings: Settings, folder: Path) -> None:
        self.network = network
        self.settings = settings
        self.workers: list[WorkerProcess] = []
        self.database = Database(settings.database_url)
        self.producer = Producer(settings)
        self._folder = folder

    def start_worker(self, host: Host, program: str = "") -> WorkerProcess:
        """Start one that is not ready yet. Not for a thread on another host: the nursery would be there."""
        log = self._folder / f"{host.name}.log"
        worker = WorkerProcess(self.settings, log, sys.executable, program=f"{host.program}{program}{WORK}")
        self.workers.append(worker)
        return worker

    def id_of(self, worker: WorkerProcess) -> UUID:
        with self.database.read() as connection:
            return connection.execute(select(Worker.id).where(Worker.pid == worker.pid)).scalar_one()

    def held_by(self, worker_id: UUID) -> int:
        statement = (
            select(func.count())
            .select_from(JobRow)
            .where(JobRow.worker_id == worker_id, JobRow.state == JobState.RUNNING)
        )
        with self.database.read() as connection:
            return connection.execute(statement).scalar_one()

    def rows(self, submission: Submission) -> list[Row[Any]]:
        columns = (
            JobRow.id,
            JobRow.state,
            JobRow.attempt,
            JobRow.worker_id,
            JobRow.finished_at,
            JobRow.crashes,
        )
        statement = select(*columns).where(JobRow.id.in_(submission.job_ids)).order_by(JobRow.id)
        with self.database.read() as connection:
            return list(connection.execute(statement).all())

    def close(self) -> None:
        for worker in self.workers:
            worker.kill()
        self.producer.close()
        self.database.close()


@pytest.fixture
def rack(network: Hosts, services: tuple[str, str], models_dir: Path, tmp_path: Path) -> Iterator[Rack]:
    """Nothing runs yet; images and models are in folders that all hosts share."""
    database_url, broker_url = services
    settings = Settings.load(
        data_dir=tmp_path / "data",
        database_url=database_url,
        broker_url=broker_url,
        models_dir=models_dir,
        heartbeat_s=0.5,
        silent_after_s=5.0,
        unhealthy_after_s=600.0,
        max_batch=8,
        decode_threads=1,
    )
    rack = Rack(network, settings, tmp_path)
    try:
        yield rack
    finally:
        for host in network.others:
            host.plug_in()
        rack.close()


def images(count: int) -> list[bytes]:
    return [encode(crop, "JPEG") for crop in photo_crops(count)]


def test_a_host_that_was_cut_off_in_the_middle_of_its_batches_costs_no_job_and_works_on(
    rack: Rack, tmp_path: Path
) -> None:
    """What it finished meanwhile was finished by another: its late commits write nothing."""
    lost_host, other_host = rack.network.others
    held = Held(tmp_path, after_jobs=8)
    lost, other = rack.start_worker(lost_host, held.program), rack.start_worker(other_host)
    with rack.network.services.entered():
        lost.wait_ready()
        other.wait_ready()
        lost_id, other_id = rack.id_of(lost), rack.id_of(other)
        submission = rack.producer.submit(distinct(images(50), 150))
        eventually(lambda: lost.lines("batch") and other.lines("batch") and held.is_held(), what="both work")
        lost_host.unplug()
        held.let_go()
        assert rack.held_by(lost_id) > 0, "it was cut off too late to matter"
        assert {job.state for job in submission.wait(timeout_s=200)} == {JobState.SUCCEEDED}
        before = rack.rows(submission)
        assert any(row.crashes for row in before), "they were taken back from it"
        assert not any(line["fenced"] for line in lost.lines("batch"))

        lost_host.plug_in()
        eventually(
            lambda: sum(line["fenced"] for line in lost.lines("batch")), 150, what="its commit comes late"
        )
        assert rack.rows(submission) == before, "one result a job, and it stays"
        assert other.terminate() == 0
        further = rack.producer.submit(images(20))
        assert {job.state for job in further.wait(timeout_s=200)} == {JobState.SUCCEEDED}
        assert {row.worker_id for row in rack.rows(further)} == {lost_id}, "the same process goes on"
        assert {row.worker_id for row in before} == {lost_id, other_id}
    assert lost.terminate() == 0


def test_a_host_that_was_cut_off_in_a_transaction_does_not_hold_up_the_others(
    rack: Rack, tmp_path: Path
) -> None:
    """The database has not heard that its client is gone, and would keep the locks for hours."""
    lost_host, other_host = rack.network.others
    held = Held(tmp_path, after_jobs=8)
    program = STAYS_IN_A_TRANSACTION.format(folder=str(tmp_path)) + held.program
    lost = rack.start_worker(lost_host, program)
    with rack.network.services.entered():
        lost.wait_ready()
        submission = rack.producer.submit(distinct(images(50), 150))
        eventually(lambda: lost.lines("batch") and held.is_held(), what="it works")
        (tmp_path / "hold").touch()
        eventually((tmp_path / "held").exists, what="it has the lease")
        lost_host.unplug()
        (tmp_path / "go on").touch()
        held.let_go()
        assert rack.held_by(rack.id_of(lost)) > 0, "it was cut off too late to matter"
    rack.start_worker(other_host)
    with rack.network.services.entered():
        assert {job.state for job in submission.wait(timeout_s=200)} == {JobState.SUCCEEDED}
