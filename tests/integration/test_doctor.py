"""The doctor on healthy and broken set-ups."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from alexq import doctor
from alexq.doctor import Check
from alexq.stack.broker import EmbeddedBroker
from alexq.stack.log import Log
from alexq.stack.supervisor import Child, Supervisor
from alexq.torch_facts import TorchFacts, probe_torch
from alexq_producer import Producer
from alexq_schema import migrations
from alexq_schema.models import ModelStore
from alexq_schema.settings import Settings
from tests.helpers.nursery import run_alexq
from tests.helpers.ports import free_port

FACTS = TorchFacts(torch="2.13", torchvision="0.28")


@pytest.fixture
def healthy(tmp_path: Path, models_dir: Path) -> Iterator[Settings]:
    """Broker, migrated database and model."""
    broker = EmbeddedBroker.configure(tmp_path / "broker")
    supervisor = Supervisor(Log())
    supervisor.start(Child("broker", broker.argv, os.environ, is_ready=lambda _pid: broker.is_ready()))
    database_url = f"sqlite:///{tmp_path / 'alexq.db'}"
    migrations.upgrade(database_url)
    yield Settings.load(
        data_dir=tmp_path, models_dir=models_dir, broker_url=broker.url, database_url=database_url
    )
    supervisor.stop()


def run_doctor(settings: Settings, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run_alexq(settings, "doctor", *arguments)


@pytest.mark.slow
def test_a_healthy_set_up_passes_every_check(healthy: Settings) -> None:
    done = run_doctor(healthy, "--json")
    checks = [json.loads(line) for line in done.stdout.splitlines()]
    assert [check["name"] for check in checks if not check["ok"]] == []
    names = ["python", "torch", "device", "broker", "database", "clock", "workers"]
    names += ["image store", "model", "data folder"]
    assert [check["name"] for check in checks] == names
    assert done.returncode == 0


@pytest.mark.slow
def test_an_empty_set_up_fails_with_a_fix_for_each_failure(tmp_path: Path) -> None:
    done = run_doctor(Settings.load(data_dir=tmp_path), "--json")
    failures = {c["name"]: c for c in map(json.loads, done.stdout.splitlines()) if not c["ok"]}
    assert set(failures) == {"broker", "database", "clock", "workers", "model"}
    assert failures["broker"]["fix"] == "alexq up"
    assert all(check["fix"] for check in failures.values())
    assert done.returncode == 1
    assert "Traceback" not in done.stderr


def test_a_broker_that_does_not_answer(healthy: Settings) -> None:
    away = healthy.model_copy(update={"broker_url": f"redis://127.0.0.1:{free_port()}/0"})
    assert not doctor.check_broker(away).ok


def test_a_broker_that_does_not_let_us_in(healthy: Settings) -> None:
    port = healthy.broker_url.rpartition(":")[2]
    check = doctor.check_broker(healthy.model_copy(update={"broker_url": f"redis://:wrong@127.0.0.1:{port}"}))
    assert not check.ok
    assert "password" in check.fix


def test_a_database_without_tables(healthy: Settings, tmp_path: Path) -> None:
    empty = healthy.model_copy(update={"database_url": f"sqlite:///{tmp_path / 'empty.db'}"})
    assert doctor.check_database(healthy).ok
    check = doctor.check_database(empty)
    assert not check.ok
    assert check.fix == "alexq migrate"


def test_damaged_weights(healthy: Settings, tmp_path: Path, models_dir: Path) -> None:
    version = ModelStore(models_dir).resolve()
    copy = tmp_path / "models" / version.info.ref
    copy.mkdir(parents=True)
    for file in version.folder.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    (copy / "weights.safetensors").write_bytes(b"damaged")
    settings = healthy.model_copy(update={"models_dir": tmp_path / "models", "model": version.info.ref})
    check = doctor.check_model(settings)
    assert not check.ok
    assert "SHA-256" in check.found


def test_a_data_folder_below_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    check = doctor.check_data_folder(Settings.load(data_dir=tmp_path / "file" / "data"))
    assert not check.ok
    assert check.fix


def test_a_device_that_is_not_there() -> None:
    assert doctor.check_device("auto", FACTS).ok
    assert not doctor.check_device("cuda", FACTS).ok
    assert not doctor.check_device("mps", FACTS).ok
    one_gpu = TorchFacts(torch="2.13", torchvision="0.28", cuda=["H200"])
    assert doctor.check_device("cuda:0", one_gpu).ok
    assert not doctor.check_device("cuda:1", one_gpu).ok
    assert not doctor.check_device("cuda:0,cuda:1", one_gpu).ok


def test_a_torch_that_does_not_import() -> None:
    facts = probe_torch([sys.executable, "-c", "raise SystemExit('no torch here')"])
    check = doctor.check_torch(facts)
    assert not check.ok
    assert check.found == "no torch here"
    assert not doctor.check_device("auto", facts).ok


def test_clocks_that_differ() -> None:
    assert doctor.judge_clock(-1.9).ok
    assert not doctor.judge_clock(2.1).ok


def test_an_old_python() -> None:
    assert not doctor.check_python((3, 10, 9)).ok


def test_a_check_that_hangs_fails_in_time(tmp_path: Path) -> None:
    def hangs(_settings: Settings) -> Check:
        time.sleep(2)
        return Check("slow", ok=True, found="")

    check = doctor.bounded("slow", hangs, Settings.load(data_dir=tmp_path), timeout_s=0.1)
    assert not check.ok
    assert "no answer within" in check.found


def test_jobs_that_nobody_works_on_are_noticed(healthy: Settings) -> None:
    with Producer(healthy) as producer:
        producer.submit(b"\xff\xd8\xff and so on")

    check = doctor.check_workers(healthy)

    assert (check.ok, check.found, check.fix) == (False, "0 alive, 1 jobs wait", "alexq worker, or alexq up")


def test_an_image_store_that_cannot_be_written_is_noticed(healthy: Settings) -> None:
    check = doctor.bounded(
        "image store",
        doctor.check_image_store,
        healthy.model_copy(update={"images_url": "file:///proc/nope"}),
        timeout_s=5,
    )

    assert not check.ok
    assert "/proc/nope" in check.found
