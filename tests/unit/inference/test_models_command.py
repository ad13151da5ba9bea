"""``python -m alexq_worker.models``: the version on stdout, one clear line for people, exit codes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch

from alexq_schema.models import ModelStore
from alexq_worker import models


@pytest.fixture
def own(tmp_path, monkeypatch) -> ModelStore:
    """The models folder of an installation that has no network."""
    for name in [name for name in os.environ if name.startswith("ALEXQ_") or name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("ALEXQ_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # discard: nothing listens there
    return ModelStore(tmp_path / "data" / "models")


@pytest.fixture
def command(monkeypatch, capsys):
    """Run the command in this process: (exit code, stdout, stderr)."""

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["alexq models", *arguments])
        with pytest.raises(SystemExit) as exited:
            models.main()
        return (exited.value.code or 0, *capsys.readouterr())

    return run


@pytest.fixture
def pets(tmp_path, tiny_state, labels_file, tiny_alexnet) -> list[str]:
    weights = tmp_path / "mine.safetensors"
    safetensors.torch.save_file(tiny_state(3), weights)
    return ["import", "pets/v1", str(weights), str(labels_file)]


def test_without_a_network_ensure_goes_on_untrained_and_says_so_once(own):
    command = [sys.executable, "-W", "error", "-m", "alexq_worker.models", "ensure"]
    first = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    assert first.stdout == "alexnet/untrained-seed0\n"
    (line,) = first.stderr.splitlines()
    for text in ("cannot reach download.pytorch.org", "untrained weights", "trained: false"):
        assert text in line
    assert own.active_ref() == "alexnet/untrained-seed0"
    again = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    assert (again.stdout, again.stderr) == ("alexnet/untrained-seed0\n", "")


def test_ensure_serves_the_chosen_version_and_verifies_it(own, command, pets, monkeypatch):
    assert command(*pets)[0] == 0
    assert command("ensure") == (0, "pets/v1\n", "")
    monkeypatch.setenv("ALEXQ_MODEL", "pets/v2")
    code, out, err = command("ensure")
    assert (code, out) == (1, "")
    assert "no model pets/v2" in err
    monkeypatch.setenv("ALEXQ_MODEL", "pets/v1")
    own.find("pets/v1").weights_path.write_bytes(b"damaged")
    code, out, err = command("ensure")
    assert (code, out) == (1, "")
    assert "SHA-256" in err
    assert len(err.splitlines()) == 1


def test_the_first_version_becomes_active_and_the_next_ones_do_not(own, command, pets):
    code, out, err = command(*pets)
    assert (code, out) == (0, "pets/v1\n")
    assert "active" in err
    assert own.active_ref() == "pets/v1"
    code, out, err = command("untrained", "--seed", "3")
    assert (code, out) == (0, "alexnet/untrained-seed3\n")
    assert "workers serve pets/v1 until `alexq models activate alexnet/untrained-seed3`" in err
    assert own.active_ref() == "pets/v1"
    assert "active already" in command(*pets)[2]


def test_a_failure_is_one_line_and_exit_code_1(own, command):
    code, out, err = command("pull")
    assert (code, out) == (1, "")
    (line,) = err.splitlines()
    assert "cannot reach download.pytorch.org" in line
    assert "alexq models import" in line
    assert not own.models_dir.exists()


def test_a_wrong_argument_is_exit_code_2(own, command):
    assert command("import", "pets/v1")[0] == 2
    assert command("nonsense")[0] == 2


def test_ensure_is_quick_when_there_is_nothing_to_make():
    code = "import sys; import alexq_worker.models; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=200, cwd=Path(__file__).parent)
