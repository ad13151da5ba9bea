"""Expand, deploy, contract: the release before this one goes on beside it, on this release's schema."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import UUID

import pytest

from alexq.stack.environment import environment
from alexq_producer import Producer
from alexq_schema import migrations
from alexq_schema.job import JobState
from alexq_schema.settings import Settings
from tests.helpers.eventually import eventually
from tests.helpers.models import add_version, own_store
from tests.helpers.photos import distinct, encode, photo_crops
from tests.helpers.postgres import PostgresServer
from tests.helpers.processes import WorkerProcess

PREVIOUS_RELEASES = {"0001": "3b43bfe", "0003": "2a5e32b", "0009": "95a6eb0"}
"""By the revision of its schema: the commit of the last release that had it."""

ROOT = Path(__file__).parents[2]
MIGRATE = "import sys; from alexq_schema import migrations; migrations.upgrade(sys.argv[1])"
SUBMIT = """
import sys
from pathlib import Path
from alexq_producer import Producer
with Producer() as producer:
    photo = Path(sys.argv[1]).read_bytes()
    print(producer.submit([photo + number.to_bytes(8) for number in range(int(sys.argv[2]))]).id)
"""


@pytest.fixture
def database_url(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An empty database: the previous release makes the tables."""
    if kind == "sqlite":
        yield f"sqlite:///{tmp_path / 'alexq.db'}"
    else:
        server: PostgresServer = request.getfixturevalue("postgres_server")
        with server.database() as url:
            yield url


@pytest.fixture
def settings(settings: Settings, alexnet_dir: Path, tmp_path: Path) -> Settings:
    """AlexNet is what every release knows; it is small pictures that make it quick."""
    store = own_store(alexnet_dir, tmp_path / "models")
    store.activate(add_version(store, "small", of="alexnet/untrained-seed0", crop=64))
    return settings.model_copy(update={"models_dir": store.models_dir, "max_batch": 16})


@pytest.fixture
def previous(revision: str, tmp_path: Path) -> dict[str, str]:
    """The environment in which Python imports the previous release."""
    source = tmp_path / "previous"
    source.mkdir()
    commit = PREVIOUS_RELEASES[revision]
    archive = subprocess.run(["git", "-C", ROOT, "archive", commit], capture_output=True, check=False)
    if archive.returncode != 0:
        pytest.skip(f"this clone has no commit {commit}: fetch the whole history")
    subprocess.run(["tar", "-x", "-C", source], input=archive.stdout, check=True)
    rooms = [source / room for room in (".", "schema", "producer", "worker", "monitor")]
    return {"PYTHONPATH": os.pathsep.join(map(str, rooms))}


def run(code: str, *arguments: str, env: dict[str, str]) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env=env,
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize(
    ("revision", "kind"), [("0001", "sqlite"), ("0003", "postgres"), ("0009", "sqlite"), ("0009", "postgres")]
)
def test_a_worker_of_the_previous_release_finishes_its_jobs_beside_a_new_one(
    revision: str,
    previous: dict[str, str],
    settings: Settings,
    producer: Producer,
    start_worker: Callable[..., WorkerProcess],
    tmp_path: Path,
) -> None:
    settings = settings.model_copy(update={"silent_after_s": 300.0})  # however busy this machine is
    env = {**environment(settings), **previous}
    run(MIGRATE, settings.database_url, env=env)
    assert migrations.current(settings.database_url) == revision
    photo = tmp_path / "photo.jpg"
    photo.write_bytes(encode(photo_crops(1)[0], "JPEG"))
    old = WorkerProcess(settings, tmp_path / "old.log", python=sys.executable, env=previous)
    try:
        eventually(lambda: old.lines_with("ready: alexnet"), 300)
        submitted = run(SUBMIT, str(photo), "300", env=env)
        eventually(lambda: old.lines("batch"), 150)

        migrations.upgrade(settings.database_url)  # expand
        new = start_worker(silent_after_s=300.0)  # deploy
        first = producer.submission(UUID(submitted))
        others = [producer.submit(distinct([photo.read_bytes()], 200))]

        def new_one_works_too() -> bool:
            if not new.lines("batch"):  # the other took all there was
                others.append(producer.submit(distinct([photo.read_bytes()], 20)))
            return bool(new.lines("batch"))

        eventually(new_one_works_too, 150, every_s=1.0, what="both releases work")
        jobs = [job for submission in (first, *others) for job in submission.wait(timeout_s=150)]
        assert {(job.state, job.attempt) for job in jobs} == {(JobState.SUCCEEDED, 1)}
        assert old.process.poll() is None
        assert not [line for line in old.lines("batch") if line["fenced"]]
        assert old.terminate() == 0
    finally:
        old.kill()
    assert new.terminate() == 0
