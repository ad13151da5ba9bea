"""The recipes run as they stand, against a real gateway and a real worker."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import httpx2
import pytest

from alexq_schema import migrations
from alexq_schema.settings import Settings
from tests.helpers.eventually import eventually
from tests.helpers.gateway import GatewayProcess, running_gateway
from tests.helpers.photos import encode, photo_crops
from tests.helpers.ports import free_port
from tests.helpers.processes import WorkerProcess

RECIPES = Path(__file__).parents[2] / "docs/howto/recipes"
PHOTOGRAPHS = dict(zip(("cat.jpg", "dog.jpg"), map(encode, photo_crops(2)), strict=True))
TEXT = b"This is no picture.\n"


class Stack(NamedTuple):
    """What the recipes talk to."""

    settings: Settings
    gateway: GatewayProcess

    @property
    def env(self) -> dict[str, str]:
        """The environment of a service that knows the gateway's address and nothing else."""
        env = {name: value for name, value in os.environ.items() if not name.startswith("ALEXQ_")}
        return {**env, "ALEXQ_SERVER": self.gateway.url, "PYTHONUNBUFFERED": "1"}

    def jobs(self) -> int:
        """Return how many jobs there are."""
        with self.gateway.client() as client:
            return len(client.get("/v1/jobs?limit=500").json()["jobs"])


@pytest.fixture(scope="module")
def stack(broker_server: str, models_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("recipes")
    url = f"sqlite:///{folder / 'alexq.db'}"
    migrations.upgrade(url)
    settings = Settings.load(
        data_dir=folder, database_url=url, broker_url=broker_server, models_dir=models_dir
    )
    worker = WorkerProcess(settings, folder / "worker.log", sys.executable)
    try:
        with running_gateway(settings, folder / "gateway.log") as gateway:
            worker.wait_ready()
            yield Stack(settings, gateway)
    finally:
        worker.kill()


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder with two photographs and a file that is none."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, data in {**PHOTOGRAPHS, "text.jpg": TEXT}.items():
        (folder / name).write_bytes(data)
    return folder


def run(argv: list[str], stack: Stack, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        argv, env=stack.env, cwd=folder, capture_output=True, text=True, timeout=300, check=False
    )


@contextmanager
def serving(argv: list[str], stack: Stack, folder: Path) -> Iterator[None]:
    process = subprocess.Popen(argv, env=stack.env, cwd=folder)
    try:
        yield
    finally:
        process.terminate()
        process.wait(60)


def answering(url: str) -> bool:
    try:
        return httpx2.get(url, trust_env=False).status_code > 0
    except httpx2.TransportError:
        return False


def test_the_index_names_every_recipe() -> None:
    named = set(re.findall(r"^\| \[(\S+)\]\(\1\)", (RECIPES / "README.md").read_text(), re.MULTILINE))

    assert named == {path.name for path in RECIPES.iterdir() if path.is_file()} - {"README.md"}


def test_the_fastapi_service_labels_what_it_is_sent(stack: Stack, tmp_path: Path) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}/labels"
    argv = [sys.executable, "-m", "uvicorn", "--app-dir", str(RECIPES), "fastapi_service:app"]
    with serving([*argv, "--port", str(port), "--log-level", "warning"], stack, tmp_path):
        eventually(lambda: answering(url), 60, what="the service answers")
        good = httpx2.post(url, content=PHOTOGRAPHS["cat.jpg"], trust_env=False, timeout=200)
        bad = httpx2.post(url, content=TEXT, trust_env=False, timeout=200)

    assert good.status_code == 200, good.text
    assert set(good.json()) == {"label", "probability"}
    assert bad.status_code == 422


def test_the_django_view_labels_what_it_is_sent(stack: Stack, tmp_path: Path) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}/labels"
    argv = [sys.executable, str(RECIPES / "django_view.py"), "runserver", "--noreload", str(port)]
    with serving(argv, stack, tmp_path):
        eventually(lambda: answering(url), 60, what="the view answers")
        good, bad = (
            httpx2.post(url, files={"picture": data}, trust_env=False, timeout=200)
            for data in (PHOTOGRAPHS["cat.jpg"], TEXT)
        )
        none = httpx2.post(url, trust_env=False)

    assert good.status_code == 200, good.text
    assert set(good.json()) == {"label", "probability"}
    assert (bad.status_code, none.status_code) == (422, 400)


def test_the_watcher_labels_each_complete_file_once_even_when_killed(stack: Stack, photos: Path) -> None:
    argv = [sys.executable, str(RECIPES / "watch_folder.py"), str(photos)]
    before = stack.jobs()
    names = ("cat.jpg", "dog.jpg", "text.jpg")

    def results() -> dict[str, str]:
        return {
            name: json.loads(path.read_text())["state"]
            for name in names
            if (path := photos / f"{name}.json").exists()
        }

    process = subprocess.Popen(argv, env=stack.env)
    eventually(lambda: stack.jobs() > before, 60, what="the first file is handed in")
    process.kill()  # as likely as not between the job and its result
    process.wait(60)
    for name in names:  # as if killed before any result was written
        (photos / f"{name}.json").unlink(missing_ok=True)
    process = subprocess.Popen(argv, env=stack.env)
    try:
        eventually(lambda: len(results()) == 3, 60, what="every file has its result")
    finally:
        process.terminate()
        process.wait(60)

    assert results() == {"cat.jpg": "succeeded", "dog.jpg": "succeeded", "text.jpg": "rejected"}
    assert stack.jobs() == before + 2


def test_the_watcher_leaves_a_file_that_is_being_written(stack: Stack, tmp_path: Path) -> None:
    being_written, complete = tmp_path / "cat.jpg", tmp_path / "dog.jpg"
    being_written.write_bytes(PHOTOGRAPHS["cat.jpg"][:1000])
    os.utime(being_written, (time.time() + 3600,) * 2)  # written to now, however long this test takes
    complete.write_bytes(PHOTOGRAPHS["dog.jpg"])

    with serving([sys.executable, str(RECIPES / "watch_folder.py"), str(tmp_path)], stack, tmp_path):
        eventually(Path(f"{complete}.json").exists, 60, what="the complete file has its result")
        result = Path(f"{being_written}.json")
        assert not result.exists()
        being_written.write_bytes(PHOTOGRAPHS["cat.jpg"])
        eventually(result.exists, 60, what="the other one has it, too")

    assert json.loads(result.read_text())["state"] == "succeeded"


def test_plain_celery_hands_in_without_alexq(stack: Stack, photos: Path) -> None:
    """With Celery's own modules only: an import of ours would fail."""
    program = (
        "import runpy, sys\n"
        "class Blocked:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0].startswith('alexq'):\n"
        "            raise ImportError(name)\n"
        "sys.meta_path.insert(0, Blocked())\n"
        "sys.argv = sys.argv[1:]\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')\n"
    )
    argv = [sys.executable, "-c", program, str(RECIPES / "celery_producer.py"), stack.settings.broker_url]

    done = run([*argv, "cat.jpg", "dog.jpg"], stack, photos)
    assert (done.returncode, len(done.stdout.splitlines())) == (0, 2), done.stderr
    assert all("%" in line for line in done.stdout.splitlines())


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl")
def test_curl_alone_does_everything(stack: Stack, photos: Path) -> None:
    script = str(RECIPES / "with_curl.sh")

    done = run(["bash", script, stack.gateway.url, "cat.jpg", "dog.jpg"], stack, photos)

    assert done.returncode == 0, done.stderr
    first, second, *many, cancelled = map(json.loads, done.stdout.splitlines())
    assert (first["state"], second["state"]) == ("succeeded", "succeeded")
    assert {job["source"] for job in many} == {"cat.jpg", "dog.jpg"}
    assert cancelled["counts"] == {"succeeded": 2}


@pytest.mark.skipif(shutil.which("node") is None, reason="no Node")
def test_nodes_fetch_sends_many_and_reads_their_results(stack: Stack, photos: Path) -> None:
    script = str(RECIPES / "with_fetch.mjs")

    done = run(["node", script, stack.gateway.url, "cat.jpg", "dog.jpg", "text.jpg"], stack, photos)

    assert done.returncode == 0, done.stderr
    told = sorted(done.stdout.splitlines())
    assert [line.partition(":")[0] for line in told] == ["cat.jpg", "dog.jpg", "text.jpg"]
    assert "refused" in told[2]
