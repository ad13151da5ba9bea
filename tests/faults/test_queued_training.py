"""A queued training outlives the processes that run it, and ends when it is told to."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import psutil
import pytest

from alexq.stack.environment import environment
from alexq_schema.models import ModelStore
from alexq_schema.settings import Settings
from alexq_schema.training import TrainModel
from alexq_worker.training.queue import hand_in, look_at
from alexq_worker.training.textures import write_set
from tests.helpers.eventually import eventually
from tests.helpers.models import BASE, own_store
from tests.helpers.nursery import run_alexq

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1_500)]
LONG = 1_000_000
"""Epochs: days."""


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """One database is enough here."""
    return sqlite_url


@pytest.fixture
def settings(settings: Settings, models_dir: Path, tmp_path: Path) -> Settings:
    store = own_store(models_dir, tmp_path / "models")
    return settings.model_copy(update={"models_dir": store.models_dir, "device": "cpu"})


class TrainWorker(psutil.Popen):
    """``alexq models train-worker``."""

    def __init__(self, settings: Settings, log: Path) -> None:
        self.log = log
        command = [sys.executable, "-m", "alexq", "models", "train-worker"]
        with log.open("wb") as file:
            super().__init__(command, env=environment(settings), stdout=file, stderr=file)
        eventually(lambda: "INFO ready" in log_of(self), 200, what="the train worker is ready")


def log_of(worker: TrainWorker) -> str:
    return worker.log.read_text()


@pytest.fixture
def start_train_worker(settings: Settings, tmp_path: Path) -> Iterator[Callable[[], TrainWorker]]:
    """Start one; what is left at the end is killed."""
    started: list[TrainWorker] = []

    def start() -> TrainWorker:
        started.append(TrainWorker(settings, tmp_path / f"train-worker-{len(started)}.log"))
        return started[-1]

    yield start
    for worker in started:
        kill_all(worker)


def kill_all(worker: TrainWorker) -> None:
    """Kill a worker together with its child, for which it would start another."""
    if worker.is_running():
        worker.suspend()
        for one in [*worker.children(recursive=True), worker]:
            one.kill()
    worker.wait(150)


def command(settings: Settings, *arguments: str) -> dict[str, Any]:
    """Run ``alexq models training``; return what it prints."""
    done = run_alexq(settings, "models", "training", *arguments)
    assert done.returncode == 0, done.stderr
    shown: dict[str, Any] = json.loads(done.stdout)
    return shown


def wait_for(settings: Settings, training_id: UUID, *states: str, timeout_s: float = 300) -> dict[str, Any]:
    eventually(
        lambda: look_at(settings, training_id)["state"] in states, timeout_s, what=f"the training is {states}"
    )
    return look_at(settings, training_id)


def test_a_queued_training_outlives_its_processes_and_can_be_cancelled(
    settings: Settings, start_train_worker: Callable[[], TrainWorker], tmp_path: Path
) -> None:
    write_set(tmp_path / "pictures", each=3)

    def request(ref: str, epochs: int) -> TrainModel:
        return TrainModel.of(
            data=tmp_path / "pictures", ref=ref, base=BASE, epochs=epochs, batch=16, activate=True
        )

    store = ModelStore(settings.models_dir)
    first = start_train_worker()
    unwanted = hand_in(settings, request("own/unwanted", LONG))
    eventually(
        lambda: (look_at(settings, unwanted)["info"] or {}).get("epochs") == LONG, 300, what="it trains"
    )
    (child,) = first.children()
    child.send_signal(signal.SIGKILL)
    eventually(lambda: log_of(first).count(f"training {unwanted}") == 2, 200, what="it is begun again")
    kill_all(first)
    second = start_train_worker()
    eventually(lambda: f"training {unwanted}" in log_of(second), 200, what="another worker takes it")

    never = hand_in(settings, request("own/never", 1))
    for training_id in (never, unwanted):
        assert command(settings, str(training_id), "--cancel")["training_id"] == str(training_id)
    last = hand_in(settings, request("own/last", 1))
    result = wait_for(settings, last, "SUCCESS")["info"]
    assert result["model"] == "own/last"
    assert result["held_out"]["images"] == 8
    assert store.active_ref() == "own/last"
    assert store.refs() == [BASE, "own/last"]
    assert look_at(settings, unwanted)["state"] == look_at(settings, never)["state"] == "REVOKED"

    failed = hand_in(settings, request("own/last", 1))
    assert "is there already" in wait_for(settings, failed, "FAILURE")["info"]
    second.terminate()
    assert second.wait(150) == 0
