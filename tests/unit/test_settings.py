"""Settings say which variable is wrong, and find the running stack."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from alexq.stack.environment import environment
from alexq_schema.errors import SettingsError, StackNotRunningError
from alexq_schema.settings import Settings, StackFile


def stack(data_dir: Path, pid: int) -> StackFile:
    return StackFile(
        pid=pid,
        database_url="sqlite:////d",
        broker_url="redis://b",
        images_url="file:///i",
        models_dir=data_dir / "m",
        monitor_url="http://127.0.0.1:5555",
        gateway_url="http://127.0.0.1:8080",
    )


def test_a_wrong_value_is_named_with_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALEXQ_MAX_BATCH", "many")

    with pytest.raises(SettingsError, match="ALEXQ_MAX_BATCH='many'"):
        Settings.load()


def test_a_worker_cannot_be_silent_before_it_may_speak() -> None:
    with pytest.raises(SettingsError, match="ALEXQ_SILENT_AFTER_S"):
        Settings.load(heartbeat_s=5, silent_after_s=5)


def test_folders_lie_in_the_data_folder_unless_named(tmp_path: Path) -> None:
    settings = Settings.load(data_dir=tmp_path, models_dir=tmp_path / "elsewhere")

    assert settings.images_url == (tmp_path / "images").as_uri()
    assert settings.models_dir == tmp_path / "elsewhere"


def test_without_settings_and_stack_the_person_is_told_of_alexq_up() -> None:
    with pytest.raises(StackNotRunningError, match="alexq up"):
        Settings.connected()


def test_one_service_without_the_other_is_refused() -> None:
    with pytest.raises(SettingsError, match="ALEXQ_BROKER_URL is not set"):
        Settings.connected(database_url="sqlite:////d")


def test_a_running_stack_is_found(tmp_path: Path) -> None:
    stack(tmp_path, os.getpid()).write(tmp_path)

    settings = Settings.connected(data_dir=tmp_path)

    assert (settings.database_url, settings.broker_url) == ("sqlite:////d", "redis://b")
    assert settings.dashboard_url == "http://127.0.0.1:5555"
    assert stat.S_IMODE(StackFile.path(tmp_path).stat().st_mode) == 0o600


def test_the_file_of_a_dead_stack_is_not_believed(tmp_path: Path) -> None:
    stack(tmp_path, 2**22 + 1).write(tmp_path)  # above the largest pid

    with pytest.raises(StackNotRunningError):
        Settings.connected(data_dir=tmp_path)


def test_secrets_are_not_shown() -> None:
    settings = Settings.load(broker_url="redis://:canary@h/0", database_url="postgresql://u:canary@h/d")

    assert "canary" not in repr(settings)


@pytest.fixture
def secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of secrets, and URLs that name users without their passwords."""
    folder = tmp_path / "secrets"
    folder.mkdir()
    monkeypatch.setenv("ALEXQ_SECRETS_DIR", str(folder))
    monkeypatch.setenv("ALEXQ_DATABASE_URL", "postgresql://alexq@db:5432/alexq?sslmode=require")
    monkeypatch.setenv("ALEXQ_BROKER_URL", "redis://alexq@broker:6379/0")
    (folder / "alexq_database_password").write_text("p@ss/w:rd\n")
    (folder / "alexq_broker_password").write_text("canary\n")
    return folder


def test_passwords_come_from_files(secrets: Path) -> None:
    settings = Settings.load()

    assert settings.database_url == "postgresql://alexq:p%40ss%2Fw%3Ard@db:5432/alexq?sslmode=require"
    assert settings.broker_url == "redis://alexq:canary@broker:6379/0"
    assert "canary" not in repr(settings)


def test_a_variable_counts_more_than_a_file(secrets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALEXQ_BROKER_URL", "redis://alexq:mine@broker:6379/0")
    monkeypatch.setenv("ALEXQ_DATABASE_PASSWORD", "mine")

    settings = Settings.load()

    assert settings.broker_url == "redis://alexq:mine@broker:6379/0"
    assert settings.database_url.startswith("postgresql://alexq:mine@")


def test_a_missing_secret_is_named_with_where_it_belongs(secrets: Path) -> None:
    (secrets / "alexq_broker_password").unlink()

    with pytest.raises(SettingsError, match=f"ALEXQ_BROKER_PASSWORD is missing.*{secrets}"):
        Settings.load()

    (secrets / "alexq_broker_password").touch()
    assert Settings.load().broker_url == "redis://alexq@broker:6379/0"


def test_a_folder_of_secrets_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALEXQ_SECRETS_DIR", "/nowhere")

    with pytest.raises(SettingsError, match=r"ALEXQ_SECRETS_DIR='/nowhere'.*No such file"):
        Settings.load()


def test_a_malformed_secret_is_named_and_not_shown(secrets: Path) -> None:
    (secrets / "alexq_monitor_login").write_text("canary")

    with pytest.raises(SettingsError, match="ALEXQ_MONITOR_LOGIN: ") as refused:
        Settings.load()

    assert "canary" not in str(refused.value)


def test_what_a_process_hands_on_is_what_it_has(secrets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings.load()
    handed_on = environment(settings)
    for name, value in handed_on.items():
        if name.startswith("ALEXQ_"):
            monkeypatch.setenv(name, value)

    assert Settings.load() == settings
