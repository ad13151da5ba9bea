"""Versions that change under a real worker: nothing fails, no attempt is used up, no batch is mixed."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Self

import pytest
from sqlalchemy import select

from alexq_producer import Producer
from alexq_producer.submission import Submission
from alexq_schema.db.session import Database
from alexq_schema.db.tables import Worker
from alexq_schema.job import Job, JobState
from alexq_schema.models import ModelStore
from alexq_schema.settings import Settings
from tests.helpers.eventually import eventually
from tests.helpers.models import BASE, add_version, own_store
from tests.helpers.photos import encode, photo_crops
from tests.helpers.processes import WorkerProcess

StartWorker = Callable[..., WorkerProcess]
BACKLOG = 12

LOADS_SLOWLY = """
import sys, time
from alexq_worker.serving import Loader
load = Loader.load
def held(self, ref=""):
    if ref:
        print("loading", ref, flush=True)
        time.sleep({load_s})
    return load(self, ref)
Loader.load = held
from alexq_worker.app import main
sys.exit(main())
"""
"""A worker that needs so long for every version but its first."""

FOR_EVER_S = 3600


@pytest.fixture(scope="module")
def photos() -> list[bytes]:
    return [encode(crop) for crop in photo_crops(8)]


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """SQLite alone: what a switch writes is tested on both."""
    return sqlite_url


@pytest.fixture
def store(models_dir: Path, tmp_path: Path) -> ModelStore:
    return own_store(models_dir, tmp_path / "models")


@pytest.fixture
def settings(settings: Settings, store: ModelStore) -> Settings:
    return settings.model_copy(update={"models_dir": store.models_dir, "max_batch": 8})


class Load:
    """Submits photographs without a pause, on a thread of its own; at most :data:`BACKLOG` times ahead."""

    def __init__(self, producer: Producer, photos: list[bytes]) -> None:
        self._producer = producer
        self._photos = photos
        self._stop = threading.Event()
        self.submissions: list[Submission] = []
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(150)

    def _run(self) -> None:
        while not self._stop.is_set():
            if not self._is_far_ahead():
                self.submissions.append(self._producer.submit(self._photos))
            self._stop.wait(0.1 if len(self.submissions) % 4 else 0.5)

    def _is_far_ahead(self) -> bool:
        """Return whether a slow machine has enough to do."""
        before = self.submissions[-BACKLOG:]
        return len(before) == BACKLOG and before[0].counts().get(JobState.SUCCEEDED, 0) < len(self._photos)

    def jobs(self) -> list[Job]:
        """Return every job, when it is done."""
        return [job for one in self.submissions for job in one.wait(timeout_s=150)]


LIGHT = BASE.partition("/")[2]


def made_by(jobs: list[Job]) -> set[str]:
    """Return the versions that made results, each of which must say what its version says."""
    versions = set()
    for job in jobs:
        assert job.model is not None
        version = job.model.version
        versions.add(version)
        expected = "" if version == LIGHT else f"{version} "
        for prediction in job.predictions:
            said_by = prediction.label.partition(" ")[0] + " "
            assert (said_by if said_by in ("second ", "third ") else "") == expected, (version, prediction)
    return versions


def models_of(worker: WorkerProcess, after: int = 0) -> set[str]:
    """Return the versions that batches went through, the first ones not looked at."""
    return {str(line["model"]) for line in worker.lines("batch")[after:]}


def rows(settings: Settings) -> dict[int, Worker]:
    """Return the rows of workers by process id."""
    database = Database(settings.database_url)
    try:
        with database.read() as connection:
            return {row.pid: row for row in connection.execute(select(Worker.__table__)).all()}  # type: ignore[misc]
    finally:
        database.close()


def test_activating_back_and_forth_under_load_fails_nothing_and_mixes_nothing(
    store: ModelStore, producer: Producer, start_worker: StartWorker, photos: list[bytes]
) -> None:
    second, third = add_version(store, "second"), add_version(store, "third", crop=72)
    worker = start_worker()
    with Load(producer, photos) as load:
        for number, ref in enumerate((second, third, BASE)):
            store.activate(ref)
            eventually(
                lambda number=number: len(worker.lines_with("switched to model")) == number + 1, 150, what=ref
            )
            before = len(worker.lines("batch"))
            eventually(
                lambda before=before, ref=ref: ref in models_of(worker, before), what=f"{ref} makes results"
            )
    jobs = load.jobs()

    assert {(job.state, job.attempt, job.errors) for job in jobs} == {(JobState.SUCCEEDED, 1, 0)}
    assert made_by(jobs) == {LIGHT, "second", "third"}
    assert worker.process.poll() is None
    assert worker.terminate() == 0
    assert models_of(worker) == {BASE, second, third}


def test_a_damaged_version_is_refused_and_the_old_one_goes_on(
    settings: Settings,
    store: ModelStore,
    producer: Producer,
    start_worker: StartWorker,
    photos: list[bytes],
) -> None:
    second, third = add_version(store, "second"), add_version(store, "third")
    weights = store.find(second).weights_path
    whole = weights.read_bytes()
    weights.unlink()
    weights.write_bytes(whole[:-1_000_000])
    worker, pinned = start_worker(), start_worker(model=BASE)
    (store.models_dir / "active").write_text(second)  # as `activate` on a host whose copy is whole

    [line] = eventually(lambda: worker.lines_with("is refused"), 150)
    assert "has SHA-256" in line["event"]
    row = eventually(lambda: (row := rows(settings)[worker.pid]).refused_model and row, 60)
    assert row.refused_model == second
    assert "is damaged or was changed" in (row.refused_reason or "")
    jobs = producer.submit(photos).wait(timeout_s=150)
    assert made_by(jobs) == {LIGHT}

    store.activate(third)
    eventually(lambda: worker.lines_with("switched to model"), 150)
    row = eventually(lambda: (row := rows(settings)[worker.pid]).refused_model is None and row, 60)
    assert row.refused_reason is None
    assert row.model_id != rows(settings)[pinned.pid].model_id
    assert pinned.terminate() == 0
    assert made_by(producer.submit(photos).wait(timeout_s=150)) == {"third"}
    assert not pinned.lines_with("loading model")
    assert worker.terminate() == 0


def test_a_worker_that_is_killed_in_the_middle_of_a_switch_loses_nothing(
    store: ModelStore, producer: Producer, start_worker: StartWorker, photos: list[bytes]
) -> None:
    second = add_version(store, "second")
    worker = start_worker(program=LOADS_SLOWLY.format(load_s=FOR_EVER_S))
    with Load(producer, photos) as load:
        eventually(lambda: worker.lines("batch"))
        store.activate(second)
        eventually(lambda: f"loading {second}" in worker.log.read_text(), what="it loads the version")
        worker.kill()
        assert not worker.lines_with("switched to model")
        start_worker()
    jobs = load.jobs()

    assert {(job.state, job.errors) for job in jobs} == {(JobState.SUCCEEDED, 0)}
    assert made_by(jobs) == {LIGHT, "second"}


def test_a_worker_that_is_killed_while_it_loads_a_pinned_version_loses_nothing(
    store: ModelStore, producer: Producer, start_worker: StartWorker, photos: list[bytes]
) -> None:
    second = add_version(store, "second")
    worker = start_worker(program=LOADS_SLOWLY.format(load_s=FOR_EVER_S))
    pinned = producer.submit(photos[:3], model=second)
    eventually(lambda: f"loading {second}" in worker.log.read_text(), 150, what="it loads the version")
    others = producer.submit(photos).wait(timeout_s=150)  # they do not wait for it
    worker.kill()
    start_worker()
    jobs = pinned.wait(timeout_s=150)

    assert {(job.state, job.attempt, job.errors) for job in jobs} == {(JobState.SUCCEEDED, 2, 0)}
    assert (made_by(jobs), made_by(others)) == ({"second"}, {LIGHT})


def test_a_worker_that_is_stopped_in_the_middle_of_a_switch_ends_in_good_order(
    store: ModelStore, start_worker: StartWorker
) -> None:
    second = add_version(store, "second")
    worker = start_worker(program=LOADS_SLOWLY.format(load_s=1))
    store.activate(second)
    eventually(lambda: f"loading {second}" in worker.log.read_text(), 150, what="it loads the version")

    assert worker.terminate() == 0
