"""What a container engine is told of a worker: exit code and reason."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from alexq.stack.health import MAX_AGE_S, trouble_of_file


def written(folder: Path, *, age_s: float = 0.0, **state: object) -> Path:
    file = folder / "health.json"
    file.write_text(json.dumps(state))
    os.utime(file, (time.time() - age_s,) * 2)
    return file


@pytest.mark.parametrize("may_be_starting", [False, True])
def test_a_worker_is_well_while_it_rewrites_its_file(tmp_path: Path, may_be_starting: bool) -> None:
    file = written(tmp_path, is_healthy=True, age_s=MAX_AGE_S - 10)

    assert trouble_of_file(file, may_be_starting=may_be_starting) is None


@pytest.mark.parametrize("may_be_starting", [False, True])
def test_a_hung_worker_and_one_that_says_it_is_unwell_are_not(tmp_path: Path, may_be_starting: bool) -> None:
    hung = written(tmp_path, is_healthy=True, age_s=MAX_AGE_S + 10)
    assert "hung" in str(trouble_of_file(hung, may_be_starting=may_be_starting))
    unwell = written(tmp_path, is_healthy=False, reason="no progress for 50 s")
    assert "no progress" in str(trouble_of_file(unwell, may_be_starting=may_be_starting))


def test_a_worker_that_waits_for_its_broker_lives_and_is_not_ready(tmp_path: Path) -> None:
    assert "not ready" in str(trouble_of_file(tmp_path / "none", may_be_starting=False))
    assert trouble_of_file(tmp_path / "none", may_be_starting=True) is None


def test_a_file_that_an_earlier_container_left_says_nothing(tmp_path: Path) -> None:
    left = written(tmp_path, is_healthy=True, age_s=20 * 365 * 86_400)

    assert "earlier" in str(trouble_of_file(left, may_be_starting=False))
    assert trouble_of_file(left, may_be_starting=True) is None


def test_the_file_of_a_webhook_worker_is_empty(tmp_path: Path) -> None:
    file = tmp_path / "webhooks.json"
    file.touch()

    assert trouble_of_file(file, may_be_starting=False) is None


def test_the_command_says_why_and_exits_with_1(tmp_path: Path) -> None:
    def look(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "alexq.stack.health", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    assert (
        look("http://127.0.0.1:9/healthz").stderr == "http://127.0.0.1:9/healthz does not answer with 200\n"
    )
    assert look(str(tmp_path / "none")).returncode == 1
    assert look("--or-starting", str(tmp_path / "none")).returncode == 0
