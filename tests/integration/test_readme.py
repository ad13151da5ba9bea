"""What the README and the recipes show runs as it stands."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from alexq.stack.environment import environment
from alexq_schema.settings import Settings
from tests.helpers.gateway import running_gateway
from tests.helpers.outside import response, serving
from tests.helpers.photos import encode, photo_crops
from tests.helpers.processes import WorkerProcess

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
GATEWAY = "http://127.0.0.1:8080"


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """One database is enough here."""
    return sqlite_url


def test_the_readmes_python_runs_as_it_stands(
    settings: Settings, start_worker: Callable[..., WorkerProcess], tmp_path: Path
) -> None:
    start_worker()
    for name, crop in zip(("cat.jpg", "dog.jpg"), photo_crops(2), strict=True):
        (tmp_path / name).write_bytes(encode(crop, "JPEG"))
    classify, submit, plain_celery, over_http = re.findall(
        r"```python\n(.*?)```", README.read_text(), re.DOTALL
    )
    programs = [
        classify,
        f"from alexq import Producer\n{submit}",
        plain_celery.replace("redis://…", settings.broker_url),
    ]
    recipe = re.findall(r"```python\n(.*?)```", (ROOT / "docs/howto/http.md").read_text(), re.DOTALL)[0]
    with running_gateway(settings, tmp_path / "gateway.log") as gateway:
        programs += [program.replace(GATEWAY, gateway.url) for program in (over_http, recipe)]
        outputs = [run(program, settings, tmp_path) for program in programs]

    assert [len(output.splitlines()) for output in outputs] == [1, 2, 1, 2, 4]


def replaced(text: str, by: dict[str, str]) -> str:
    for old, new in by.items():
        text = text.replace(old, new)
    return text


def run(program: str, settings: Settings, folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment(settings),
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl")
def test_the_curl_lines_run_as_they_stand(
    settings: Settings, start_worker: Callable[..., WorkerProcess], tmp_path: Path
) -> None:
    start_worker()
    for name, crop in zip(("cat.jpg", "dog.jpg"), photo_crops(2), strict=True):
        (tmp_path / name).write_bytes(encode(crop, "JPEG"))
    documents = [README, ROOT / "docs/howto/http.md"]
    lines = [
        line
        for document in documents
        for line in re.findall(r"^\$ (.*curl .*)$", document.read_text(), re.MULTILINE)
    ]

    picture = response((tmp_path / "cat.jpg").read_bytes())
    allowed = {"image_url_hosts": "127.0.0.1", "image_url_private": True}
    with (
        serving(lambda sock, _request: sock.sendall(picture)) as port,
        running_gateway(settings.model_copy(update=allowed), tmp_path / "gateway.log") as gateway,
    ):
        here = {GATEWAY: gateway.url, "https://images.example.com": f"http://127.0.0.1:{port}"}
        done = [
            subprocess.run(
                ["bash", "-c", replaced(line, here)],
                cwd=tmp_path,
                capture_output=True,
                text=True,
                timeout=200,
                check=False,
            )
            for line in lines
        ]

    answers = [json.loads(one.stdout) for one in done]
    assert [answer.get("state") or answer["total"] for answer in answers] == [
        "succeeded",
        "succeeded",
        2,
        "succeeded",
    ]
