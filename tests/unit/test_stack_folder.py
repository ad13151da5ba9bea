"""The data folder and its lock."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path
from typing import NamedTuple

import pytest

from alexq.stack import folder
from alexq.stack.environment import environment, free_port
from alexq.stack.folder import FolderLock, make_data_folder
from alexq_schema.errors import StackError, StackRunningError
from alexq_schema.settings import Settings
from tests.helpers import ports


class Usage(NamedTuple):
    total: int
    used: int
    free: int


def test_a_new_data_folder_is_its_owners_only(tmp_path: Path) -> None:
    make_data_folder(tmp_path / "a" / "data")
    assert stat.S_IMODE((tmp_path / "a" / "data").stat().st_mode) == 0o700


def test_a_data_folder_below_a_file_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StackError, match="cannot use the data folder") as refused:
        make_data_folder(tmp_path / "file" / "data")
    assert "\n" not in str(refused.value)


def test_a_full_disk_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder.shutil, "disk_usage", lambda _path: Usage(10**9, 10**9 - 10**6, 10**6))
    with pytest.raises(StackError, match="only 1 MB free"):
        make_data_folder(tmp_path / "data")


def test_the_lock_is_held_once_and_names_its_holder(tmp_path: Path) -> None:
    first, second = FolderLock(tmp_path), FolderLock(tmp_path)
    first.take()
    with pytest.raises(StackRunningError, match=f"pid {os.getpid()}"):
        second.take()
    first.release()
    first.release()
    second.take()
    second.release()


def test_a_taken_port_is_replaced_by_a_free_one() -> None:
    taken = ports.free_port()
    with socket.create_server(("127.0.0.1", taken)):
        assert free_port("127.0.0.1", taken) not in (0, taken)
    assert free_port("127.0.0.1", taken) == taken


def test_an_address_of_another_machine_is_refused() -> None:
    with pytest.raises(StackError, match=r"cannot listen on 192\.0\.2\.1"):
        free_port("192.0.2.1", 5555)


def test_a_child_reads_back_the_settings_of_its_parent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings.load(
        data_dir=tmp_path, broker_url="redis://:p%40ss@host/0", max_batch=7, device="cpu"
    )
    for name, value in environment(settings).items():
        monkeypatch.setenv(name, value)
    assert Settings.load() == settings
