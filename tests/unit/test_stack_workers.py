"""Which workers one host runs, before any of them does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from alexq.stack import workers
from alexq.stack.supervisor import Child
from alexq.stack.workers import plan
from alexq_schema.errors import DeviceError
from alexq_schema.settings import Settings, usable_cores
from alexq_worker import devices
from tests.helpers.eventually import eventually

PROGRAM = """
import signal, sys
from pathlib import Path
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])  # so that one just before the wait is not missed
Path({file!r}).touch()
signal.sigwait([signal.SIGTERM])
sys.exit({code})
"""


def test_each_device_gets_a_worker_with_a_port_and_a_health_file_of_its_own(tmp_path: Path) -> None:
    settings = Settings.load(metrics_port=9464, health_file=tmp_path / "health.json", decode_threads=6)
    first, second = plan(settings, ["cuda:0", "cuda:1"], 1)
    assert (first.device, second.device) == ("cuda:0", "cuda:1")
    assert (first.metrics_port, second.metrics_port) == (9464, 9465)
    assert first.health_file != second.health_file
    assert (first.decode_threads, second.decode_threads) == (6, 6), "a number that was given is each one's"


def test_workers_share_the_cores_where_nobody_says_otherwise() -> None:
    planned = plan(Settings.load(), ["cuda:0", "cuda:1"], 2)
    assert [own.device for own in planned] == ["cuda:0", "cuda:0", "cuda:1", "cuda:1"]
    assert {own.decode_threads for own in planned} == {max(1, usable_cores() // 4)}
    assert {own.metrics_port for own in planned} == {0}
    assert {own.health_file for own in planned} == {Settings.load().health_file}, (
        "its name has the process id"
    )


def test_devices_are_named_as_the_setting_names_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert devices.cuda_devices() == ["cuda:0", "cuda:1"]
    for name in devices.cuda_devices():
        Settings.load(device=name)


def test_a_host_without_cuda_devices_is_told_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(DeviceError, match=r"found no CUDA device.*nvidia-smi.*--device cpu"):
        workers.cuda_devices()


def test_a_torch_that_does_not_load_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise subprocess.CalledProcessError(1, "python", stderr="ImportError: libcuda.so.1\n")

    monkeypatch.setattr(subprocess, "run", fails)
    with pytest.raises(DeviceError, match=r"cannot list the devices: ImportError: libcuda\.so\.1"):
        workers.cuda_devices()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(("codes", "code"), [((0, 0), 0), ((0, 1), 1)])
def test_a_signal_ends_all_and_one_that_ends_badly_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, number: signal.Signals, codes: tuple[int, int], code: int
) -> None:
    def stand_in(_settings: Settings, name: str) -> Child:
        ends = PROGRAM.format(file=str(tmp_path / name), code=codes[int(name[-1])])
        return Child(
            name, [sys.executable, "-c", ends], dict(os.environ), lambda _pid: (tmp_path / name).exists()
        )

    def ask() -> None:
        eventually(lambda: all((tmp_path / f"worker-{one}").exists() for one in (0, 1)))
        os.kill(os.getpid(), number)

    monkeypatch.setattr(workers, "worker_child", stand_in)
    asker = threading.Thread(target=ask)
    asker.start()
    assert workers.run(Settings.load(), ["cpu"], 2) == code
    asker.join(60)


def test_all_devices_and_one_device_exclude_each_other() -> None:
    argv = [sys.executable, "-m", "alexq", "worker", "--all-devices", "--device", "cpu"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 2
    assert "exclude each other" in done.stderr
