"""The README's Python runs as it stands."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from alexq.stack.environment import environment
from alexq_schema.settings import Settings
from tests.helpers.photos import encode, photo_crops
from tests.helpers.processes import WorkerProcess

README = Path(__file__).parents[2] / "README.md"


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
    classify, submit, plain_celery = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    programs = [
        classify,
        f"from alexq import Producer\n{submit}",
        plain_celery.replace("redis://…", settings.broker_url),
    ]

    for program, answers in zip(programs, (1, 2, 1), strict=True):
        done = subprocess.run(
            [sys.executable, "-c", program],
            env=environment(settings),
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert len(done.stdout.splitlines()) == answers
