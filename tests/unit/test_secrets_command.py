"""``alexq secrets`` makes what a deployment needs, and leaves alone what is there."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from typer.testing import CliRunner

from alexq.cli.main import app
from alexq.cli.secret_files import MADE
from alexq_schema.keys import is_well_formed
from alexq_schema.settings import Settings


def run(folder: Path) -> int:
    return CliRunner().invoke(app, ["secrets", str(folder)]).exit_code


def test_every_secret_is_made_once(tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    assert run(folder) == 0
    made = {file.name: file.read_text() for file in folder.iterdir()}
    assert made.keys() == set(MADE)
    assert len(set(made.values())) == len(MADE)
    assert folder.stat().st_mode & 0o077 == 0

    (folder / "alexq_api_key").unlink()
    assert run(folder) == 0

    again = {file.name: file.read_text() for file in folder.iterdir()}
    assert {name for name in MADE if again[name] != made[name]} == {"alexq_api_key"}


def test_they_fit_together_and_the_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(tmp_path)
    monkeypatch.setenv("ALEXQ_SECRETS_DIR", str(tmp_path))
    settings = Settings.load(database_url="postgresql://alexq@h/d", broker_url="redis://alexq@h/0")

    assert is_well_formed(settings.api_key)
    assert settings.monitor_login.startswith("admin:")
    password = settings.broker_url.split(":")[2].partition("@")[0]
    assert f"#{hashlib.sha256(password.encode()).hexdigest()} " in (tmp_path / "redis.acl").read_text()
