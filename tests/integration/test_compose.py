"""docker-compose.yml: whole and true as a file, and what it runs does what it is for."""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import signal
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import httpx2
import jsonschema_rs
import pytest

from alexq import Client
from alexq_schema.job import JobState
from alexq_schema.models import ModelStore
from tests.helpers import compose
from tests.helpers.composed import Composed, Container
from tests.helpers.eventually import eventually
from tests.helpers.photos import distinct, encode, photo_crops

SCHEMA = compose.ROOT / "tests/schemas/compose-spec.json"
FILES = (compose.PATH, compose.ROOT / "deploy/compose/dashboards.yml")
SERVERS = {"redis", "postgres", "prometheus", "grafana"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_compose_takes_the_file(path: Path) -> None:
    schema = json.loads(SCHEMA.read_text())

    jsonschema_rs.validator_for(schema).validate(compose.load(path))


@pytest.fixture(scope="module")
def mirror(alexnet_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A file of weights, its hash in its name, on a server of this machine; yields its URL."""
    import torch
    from safetensors.torch import load_file

    folder = tmp_path_factory.mktemp("mirror")
    draft = folder / "draft"
    torch.save(load_file(ModelStore(alexnet_dir).resolve().folder / "weights.safetensors"), draft)
    with draft.open("rb") as file:
        name = f"alexnet-{hashlib.file_digest(file, 'sha256').hexdigest()[:8]}.pth"
    draft.rename(folder / name)
    handler = partial(_Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://localhost:{server.server_port}/{name}"
        server.shutdown()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def project(mirror: str) -> Iterator[Composed]:
    """The project of a host without a GPU, its secrets made by its own command; nothing else runs."""
    project = Composed({"MODEL_URL": mirror, "GPU_WORKERS": "0"}, {"ALEXQ_MAX_BATCH": "8"})
    try:
        project.run("secrets")
        yield project
    finally:
        project.close()


@pytest.mark.slow
@pytest.mark.timeout(1_500)
def test_what_the_file_runs_loses_nothing_while_workers_come_and_go(project: Composed) -> None:
    names = ["gateway", "webhooks", "worker-cpu", "monitor"]
    up = {}
    for name in compose.in_order(project.services, names):
        if project.services[name].get("restart") == "no":
            project.run(name)
        else:
            up[name] = project.up(name)
    assert set(up) == {"redis", "postgres", *names}
    key = (project.secrets / "alexq_api_key").read_text().strip()
    gateway, monitor, first = (up[name].address for name in ("gateway", "monitor", "worker-cpu"))
    photographs = [encode(crop) for crop in photo_crops(8)]

    with Client(f"http://{gateway}:8080", api_key=key) as client:
        submitted = [client.submit(distinct(photographs, 48))]  # 48, for one worker
        later = [project.up("worker-cpu", replica, is_forked=True) for replica in (1, 2)]
        three = 'alexq_workers{queue="",state="alive"} 3.0'
        eventually(lambda: three in metrics(monitor), 200, what="three are seen")
        submitted.append(client.submit(distinct(photographs, 152)))  # two of three leave in the midst of it
        eventually(
            lambda: submitted[1].progress().counts.get(JobState.SUCCEEDED, 0) > 8, what="work is in hand"
        )
        assert [worker.stop() for worker in later] == [0, 0]
        jobs = [job for submission in submitted for job in submission.results(timeout_s=300)]

    assert len({job.job_id for job in jobs}) == 200
    assert {job.state for job in jobs} == {JobState.SUCCEEDED}

    assert "alexq_worker_jobs_total" in httpx2.get(f"http://{first}:9464/metrics").text
    asked = httpx2.get(f"http://{gateway}:8080/metrics", headers={"Authorization": f"Bearer {key}"})
    assert "alexq_gateway_requests_total" in asked.text
    login = tuple((project.secrets / "alexq_monitor_login").read_text().strip().split(":"))
    assert httpx2.get(f"http://{monitor}:5555/").status_code == 401
    assert httpx2.get(f"http://{monitor}:5555/overview", auth=login).status_code == 200
    assert httpx2.get(f"http://{gateway}:8080/readyz").json()["broker"] == "ok"
    while_the_broker_is_away(up["redis"], up["worker-cpu"], project)
    for container in up.values():
        assert container.is_well(), container.name
    for name in (*reversed(names), "redis", "postgres"):
        assert (name, up[name].stop()) == (name, 0)


def while_the_broker_is_away(broker: Container, worker: Container, project: Composed) -> None:
    """A worker's probes pass, both Docker's and Kubernetes', as it goes on rewriting its health file."""
    file = Path(worker.env["ALEXQ_HEALTH_FILE"])
    alive = ["python", "-m", "alexq.stack.health", "--or-starting", "/tmp/alexq.json"]
    assert broker.process is not None
    os.kill(broker.process.pid, signal.SIGSTOP)
    try:
        for _ in range(2):  # the first may have been on its way
            before = file.stat().st_mtime_ns
            eventually(lambda before=before: file.stat().st_mtime_ns > before, what="the worker lives")
        assert worker.is_well()
        assert worker.execute(worker.argv(alive)).returncode == 0
    finally:
        os.kill(broker.process.pid, signal.SIGCONT)
    starting = project.container("worker-cpu", 9)
    assert starting.execute(starting.argv(alive)).returncode == 0
    assert starting.execute(starting.healthcheck).returncode == 1


def metrics(monitor: str) -> str:
    return httpx2.get(f"http://{monitor}:5555/metrics", timeout=120).text
