"""A version on trial: what it says is kept and reported, and nobody is answered with it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import func, select

from alexq_producer import Producer
from alexq_schema.db import canary, workers
from alexq_schema.db.canary import Tried
from alexq_schema.db.session import Database
from alexq_schema.db.tables import CanaryResult
from alexq_schema.job import ModelRef
from alexq_schema.models import ModelStore
from alexq_schema.settings import Settings
from tests.helpers.eventually import eventually
from tests.helpers.models import BASE, add_version, own_store
from tests.helpers.nursery import run_alexq
from tests.helpers.photos import encode, photo_crops
from tests.helpers.processes import WorkerProcess
from tests.helpers.system import System, success

CANDIDATE = ModelRef(name="alexnet", version="next", precision="fp32", trained=True)


def test_the_report_says_by_label_where_it_disagrees(database: Database) -> None:
    system = System(database)
    cats, dogs = system.queue(4), system.queue(2)
    system.commit([success(claim, "cat") for claim in system.claim(cats)])
    system.commit([success(claim, "dog") for claim in system.claim(dogs)])
    with database.begin() as connection:
        model_id = workers.register_model(connection, CANDIDATE, "2" * 64)
        said = ["cat", "lynx", "lynx", "tiger"]
        tried = [Tried(job_id, label, 0.5) for job_id, label in zip(cats, said, strict=True)]
        canary.add(connection, model_id, tried)
        canary.add(connection, model_id, [tried[0], *(Tried(job_id, "dog", 0.5) for job_id in dogs)])
        found = canary.report(connection, "alexnet", "next")

    assert [(one.label, one.compared, one.disagreed, one.others) for one in found] == [
        ("cat", 4, 3, Counter({"lynx": 2, "tiger": 1})),
        ("dog", 2, 0, Counter()),
    ]


@pytest.fixture
def store(models_dir: Path, tmp_path: Path) -> ModelStore:
    return own_store(models_dir, tmp_path / "models")


class OnSqlite:
    """With a real worker, on one database: what it writes is tested on both."""

    @pytest.fixture
    def database_url(self, sqlite_url: str) -> str:
        return sqlite_url

    @pytest.fixture
    def settings(self, settings: Settings, store: ModelStore) -> Settings:
        return settings.model_copy(update={"models_dir": store.models_dir})


class TestWithAWorker(OnSqlite):
    def test_a_share_is_tried_in_the_shadow_and_the_active_version_answers(
        self,
        settings: Settings,
        store: ModelStore,
        producer: Producer,
        database: Database,
        start_worker: Callable[..., WorkerProcess],
    ) -> None:
        ref = add_version(store, "next", crop=72)
        worker = start_worker()
        photos = [encode(crop) for crop in photo_crops(6)]

        def models(*arguments: str) -> str:
            done = run_alexq(settings, "models", *arguments)
            assert done.returncode == 0, done.stderr
            return done.stdout

        def tried() -> int:
            with database.read() as connection:
                return connection.execute(select(func.count()).select_from(CanaryResult)).scalar_one()

        models("canary", ref, "--share", "1")
        eventually(lambda: worker.lines_with("trying alexnet/next"), 150)
        jobs = producer.submit(photos).wait(timeout_s=150)
        assert {job.model.version for job in jobs if job.model} == {BASE.partition("/")[2]}
        eventually(lambda: tried() == len(photos), 150)

        found = [json.loads(line) for line in models("canary", "--report", "--json").splitlines()]
        assert sum(one["compared"] for one in found) == len(photos)
        assert all(one["disagreed"] == one["compared"] for one in found)  # its labels have other names
        assert all(other["label"].startswith("next ") for one in found for other in one["instead"])

        models("canary", "--off")
        assert "nothing is tried" in models("canary")
        eventually(lambda: store.canary() is None)
        assert worker.terminate() == 0
