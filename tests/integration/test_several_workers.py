"""``alexq worker --processes 2`` as a person runs it: real processes, real signals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from alexq.stack.environment import environment
from alexq_producer import Producer
from alexq_schema.db import workers
from alexq_schema.db.session import Database
from alexq_schema.db.workers import WorkerRow
from alexq_schema.job import JobState
from alexq_schema.settings import Settings
from tests.helpers.eventually import eventually
from tests.helpers.photos import encode, photo_crops
from tests.helpers.ports import two_free_ports

pytestmark = pytest.mark.slow


@pytest.fixture
def database_url(postgres_url: str) -> str:
    """Nothing here depends on the kind of database."""
    return postgres_url


class Command:
    """The running command."""

    def __init__(self, settings: Settings, database: Database, log: Path) -> None:
        self._settings, self._database, self._log = settings, database, log
        argv = [
            sys.executable,
            "-m",
            "alexq",
            "worker",
            "--processes",
            "2",
            "--device",
            "cpu",
            "--queue",
            "vip",
        ]
        with log.open("wb") as file:
            self.process = subprocess.Popen(argv, env=environment(settings), stdout=file, stderr=file)

    @property
    def log(self) -> str:
        return self._log.read_text("utf-8", "replace")

    def alive(self) -> list[WorkerRow]:
        assert self.process.poll() is None, f"it ended:\n{self.log}"
        with self._database.read() as connection:
            rows = workers.alive(connection, self._settings.silent_after_s)
        return [row for row in rows if row.queue == "vip" and psutil.pid_exists(row.pid)]

    def wait_for_two(self, other_than: int = 0) -> list[int]:
        def two() -> list[int] | None:
            pids = [row.pid for row in self.alive()]
            return pids if len(pids) == 2 and other_than not in pids else None

        pids = eventually(two, 300, what="two workers show themselves")
        assert pids is not None
        return pids


@pytest.fixture
def command(settings: Settings, database: Database, tmp_path: Path) -> Iterator[Command]:
    settings = settings.model_copy(update={"metrics_port": two_free_ports()})
    command = Command(settings, database, tmp_path / "workers.log")
    yield command
    if command.process.poll() is None:
        command.process.kill()
        command.process.wait(150)


def test_one_of_two_workers_is_restarted_when_it_is_killed_and_both_drain(
    command: Command, settings: Settings, producer: Producer
) -> None:
    killed, kept = command.wait_for_two()
    eventually(lambda: command.log.count("is ready on cpu") == 2)
    first = int(command.log.partition("metrics on port ")[2].split()[0])
    for port in (first, first + 1):
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=120) as answer:
            assert b"alexq_worker_info" in answer.read()
    files = settings.health_file.parent
    assert {file.name for file in files.glob("*.json")} == {f"{killed}.json", f"{kept}.json"}

    submission = producer.submit([encode(crop, "JPEG") for crop in photo_crops(50)], queue="vip")
    os.kill(killed, signal.SIGKILL)
    assert kept in command.wait_for_two(other_than=killed), "the other went on"
    assert {job.state for job in submission.wait(timeout_s=150)} == {JobState.SUCCEEDED}

    producer.submit([encode(crop, "JPEG") for crop in photo_crops(50)], queue="vip")
    command.process.send_signal(signal.SIGTERM)
    assert command.process.wait(150) == 0
    assert command.log.count("stopped in good order") == 2


def test_a_worker_that_cannot_start_ends_the_command_with_its_reason(
    settings: Settings, tmp_path: Path
) -> None:
    settings = settings.model_copy(update={"models_dir": tmp_path / "nothing"})
    argv = [sys.executable, "-m", "alexq", "worker", "--processes", "2", "--device", "cpu"]
    done = subprocess.run(
        argv, env=environment(settings), capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 3
    assert "did not start" in done.stderr
    assert "alexq models pull" in done.stderr
