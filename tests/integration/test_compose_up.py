"""docker-compose.yml on a container engine, where there is one: built, up, scaled, and nothing lost."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from alexq import Client
from alexq_schema.job import JobState
from tests.helpers.compose import ROOT
from tests.helpers.eventually import eventually
from tests.helpers.photos import distinct, encode, photo_crops
from tests.helpers.ports import free_port

PROJECT = "alexq-test"
UP_S = 1800.0


def missing() -> str:
    """Return why no project can be brought up here; empty where it can."""
    if shutil.which("docker") is None:
        return "there is no docker"
    for question in (["docker", "info"], ["docker", "compose", "version"]):
        if subprocess.run(question, capture_output=True, timeout=200, check=False).returncode != 0:
            return f"`{' '.join(question)}` fails"
    return ""


class Project:
    """The project, in a copy of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "alexq"
        shutil.copytree(
            ROOT, self.folder, ignore=shutil.ignore_patterns(".git", ".venv", "*cache*", "secrets", ".env")
        )
        (self.folder / "deploy/compose/secrets").mkdir(mode=0o700)
        self.port = free_port()
        (self.folder / ".env").write_text(
            f"COMPOSE_PROJECT_NAME={PROJECT}\nCOMPOSE_PROFILES=cpu\nGPU_WORKERS=0\nWORKER_CPUS=1\n"
            f"GATEWAY_PUBLISH=127.0.0.1:{self.port}\nHOST_UID={os.getuid()}\nHOST_GID={os.getgid()}\n"
            "TORCH_INDEX=https://download.pytorch.org/whl/cpu\n"
        )

    def compose(self, *arguments: str) -> str:
        done = subprocess.run(
            ["docker", "compose", *arguments],
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=UP_S,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    """The project, up, with one worker on the CPU."""
    if why := missing():
        pytest.skip(f"no container engine: {why}")
    project = Project(tmp_path)
    try:
        project.compose("build")
        project.compose("run", "--rm", "secrets")
        project.compose("up", "-d", "--wait")
        yield project
    finally:
        project.compose("down", "--volumes", "--timeout", "60")


@pytest.mark.slow
@pytest.mark.timeout(4 * UP_S)
def test_the_project_loses_nothing_while_it_is_scaled(project: Project) -> None:
    key = (project.folder / "deploy/compose/secrets/alexq_api_key").read_text().strip()
    photographs = [encode(crop) for crop in photo_crops(8)]
    with Client(f"http://127.0.0.1:{project.port}", api_key=key) as client:
        submitted = [client.submit(distinct(photographs, 48))]
        project.compose("up", "-d", "--wait", "--scale", "worker-cpu=3")
        submitted.append(client.submit(distinct(photographs, 152)))
        eventually(
            lambda: submitted[1].progress().counts.get(JobState.SUCCEEDED, 0) > 8, what="work is in hand"
        )
        project.compose("up", "-d", "--wait", "--scale", "worker-cpu=1")
        jobs = [job for submission in submitted for job in submission.results(timeout_s=300)]

    assert len({job.job_id for job in jobs}) == 200
    assert {job.state for job in jobs} == {JobState.SUCCEEDED}
    assert httpx2.get(f"http://127.0.0.1:{project.port}/healthz").status_code == 200
