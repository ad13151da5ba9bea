"""The dashboard as a process, on a real broker."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from alexq.stack.broker import EmbeddedBroker
from alexq.stack.environment import environment
from alexq.stack.log import Log
from alexq.stack.supervisor import Child, Supervisor
from alexq_producer import Producer
from alexq_schema.db.session import Database
from alexq_schema.settings import Settings
from benchmarks.chaos.nursery import Child as Forked
from tests.helpers import nursery
from tests.helpers.eventually import eventually
from tests.helpers.photos import encode, photo_crops
from tests.helpers.ports import free_port
from tests.helpers.processes import WorkerProcess
from tests.helpers.system import System


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedBroker]:
    made = EmbeddedBroker.configure(tmp_path_factory.mktemp("data") / "broker")
    supervisor = Supervisor(Log())
    supervisor.start(Child("broker", made.argv, os.environ, is_ready=lambda _pid: made.is_ready()))
    yield made
    supervisor.stop()


def settings_for(tmp_path: Path, broker_url: str, **given: object) -> Settings:
    usual = {
        "database_url": f"sqlite:///{tmp_path / 'alexq.db'}",
        "monitor_port": free_port(),
    }
    return Settings.load(data_dir=tmp_path, broker_url=broker_url, **usual | given)


@contextmanager
def monitor(settings: Settings, extra: Mapping[str, str] | None = None) -> Iterator[Forked]:
    settings.data_dir.mkdir(exist_ok=True)
    env = environment(settings) | dict(extra or {})
    process = nursery.start(["-m", "alexq_monitor"], log=log_of(settings), env=env)
    try:
        yield process
    finally:
        process.kill()
        process.wait(60)


def log_of(settings: Settings) -> Path:
    return settings.data_dir / "monitor.log"


def status(url: str) -> int | None:
    try:
        with urllib.request.urlopen(url, timeout=120) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code
    except OSError:
        return None


def test_the_dashboard_answers_and_ends_cleanly_on_sigterm(tmp_path: Path, broker: EmbeddedBroker) -> None:
    settings = settings_for(tmp_path, broker.url)
    with monitor(settings) as process:
        url = f"http://127.0.0.1:{settings.monitor_port}"
        eventually(lambda: status(url) == 200, what="the dashboard answers")
        assert [status(f"{url}/{page}") for page in ("workers", "tasks", "broker", "metrics")] == [200] * 4
        process.send_signal(signal.SIGTERM)
        assert process.wait(150) == 0


def test_the_dashboard_ends_cleanly_while_its_broker_is_away(tmp_path: Path) -> None:
    settings = settings_for(tmp_path, f"redis://127.0.0.1:{free_port()}/0")
    with monitor(settings) as process:
        eventually(lambda: status(f"http://127.0.0.1:{settings.monitor_port}/healthcheck") == 200)
        process.send_signal(signal.SIGTERM)
        assert process.wait(150) == 0


@pytest.mark.parametrize("address", ["0.0.0.0", "::", ""])
def test_other_machines_see_nothing_without_a_login(
    tmp_path: Path, broker: EmbeddedBroker, address: str
) -> None:
    settings = settings_for(tmp_path, broker.url, monitor_address=address)
    with monitor(settings) as process:
        assert process.wait(150) == 2
    said = log_of(settings).read_text()
    assert "without a login" in said
    assert "FLOWER_BASIC_AUTH" in said
    assert "Traceback" not in said


def test_a_login_by_which_nobody_would_get_in_is_refused(tmp_path: Path, broker: EmbeddedBroker) -> None:
    settings = settings_for(tmp_path, broker.url, monitor_login="zoë:pässword")
    with monitor(settings) as process:
        assert process.wait(150) == 2
    said = log_of(settings).read_text()
    assert "ASCII" in said
    assert "pässword" not in said


def test_with_a_login_it_may_listen_everywhere(tmp_path: Path, broker: EmbeddedBroker) -> None:
    settings = settings_for(tmp_path, broker.url, monitor_address="0.0.0.0")
    with monitor(settings, {"FLOWER_BASIC_AUTH": "me:secret"}):
        url = f"http://127.0.0.1:{settings.monitor_port}/"
        eventually(lambda: status(url) == 401, what="the dashboard asks who is there")
        assert status(f"{url}metrics") == 200  # Flower shows it to whoever asks


def test_a_taken_port_is_said_in_one_line(tmp_path: Path, broker: EmbeddedBroker) -> None:
    settings = settings_for(tmp_path, broker.url, monitor_port=broker.port)
    with monitor(settings) as process:
        assert process.wait(150) == 2
    assert f"cannot listen on 127.0.0.1:{broker.port}" in log_of(settings).read_text()


def metrics_of(settings: Settings, prefix: str = "") -> dict[str, float]:
    """Return the value of every sample of ours that the dashboard tells, by name and label values."""
    url = f"http://127.0.0.1:{settings.monitor_port}{prefix}/metrics"
    with urllib.request.urlopen(url, timeout=120) as response:
        families = list(text_string_to_metric_families(response.read().decode()))
    assert {family.name for family in families} >= {"flower_events", "process_resident_memory_bytes"}
    return {
        " ".join((sample.name, *filter(None, sample.labels.values()))): sample.value
        for family in families
        for sample in family.samples
        if family.name.startswith("alexq_")
    }


def answered_by_both(settings: Settings) -> dict[str, float] | None:
    """Return the values, unless a service took so long that it is told of as away."""
    told = metrics_of(settings)
    return told if told["alexq_source_up database"] == told["alexq_source_up broker"] == 1 else None


def is_serving(settings: Settings) -> bool:
    return status(f"http://127.0.0.1:{settings.monitor_port}/healthcheck") == 200


def test_flowers_own_pages_know_what_alexqs_tasks_are(
    settings: Settings, start_worker: Callable[..., WorkerProcess], producer: Producer
) -> None:
    """Of a message its submission, how many jobs it named and what became of them; of a job its result."""
    settings = settings.model_copy(update={"monitor_port": free_port()})
    credentials = b64encode(b"me:secret").decode()

    def ask(path: str) -> Any:
        url = f"http://127.0.0.1:{settings.monitor_port}/api/{path}"
        request = urllib.request.Request(url, headers={"Authorization": f"Basic {credentials}"})
        with urllib.request.urlopen(request, timeout=120) as response:
            return json.load(response)

    with monitor(settings, {"FLOWER_BASIC_AUTH": "me:secret"}):
        start_worker()
        eventually(lambda: is_serving(settings))
        eventually(lambda: ask("workers?refresh=1"), what="Flower sees the worker")
        submission = producer.submit([*map(encode, photo_crops(2)), b"GIF89a, cut"])
        [first, *_] = submission.wait(150)
        done = eventually(
            lambda: [task for task in ask("tasks").values() if task["state"] == "SUCCESS"],
            what="Flower has seen the task",
        )
        [task] = done
        told = ask(f"task/result/{first.job_id}")

    assert task["name"] == "alexq.classify_jobs"
    assert task["kwargs"] == f"3 jobs of submission {submission.id}"
    assert task["result"] == "{'jobs': 3, 'claimed': 3, 'succeeded': 2}"
    assert told["state"] == "SUCCESS"
    assert told["result"]["job_id"] == str(first.job_id)
    assert told["result"]["state"] == first.state


def test_metrics_tell_of_database_and_broker(tmp_path: Path, broker: EmbeddedBroker, sqlite_url: str) -> None:
    database = Database(sqlite_url)
    System(database).queue(3)
    database.close()
    settings = settings_for(tmp_path, broker.url, database_url=sqlite_url, silent_after_s=600.0)
    with monitor(settings):
        eventually(lambda: is_serving(settings))
        told = eventually(lambda: answered_by_both(settings), what="database and broker answer in time")

    assert told is not None
    assert told["alexq_queue_jobs bulk due"] == 3
    assert told["alexq_queue_jobs interactive due"] == 0
    assert told["alexq_workers alive"] == 2
    assert told["alexq_queue_messages bulk"] == 0


def test_metrics_follow_flowers_prefix(tmp_path: Path, broker: EmbeddedBroker) -> None:
    settings = settings_for(tmp_path, broker.url)
    with monitor(settings, {"FLOWER_URL_PREFIX": "flower"}):
        url = f"http://127.0.0.1:{settings.monitor_port}/flower/healthcheck"
        eventually(lambda: status(url) == 200)
        eventually(lambda: metrics_of(settings, "/flower")["alexq_source_up broker"] == 1)
        told = metrics_of(settings, "/flower")
    assert told == {  # there are no tables in its database
        "alexq_source_up database": 0,
        "alexq_source_up broker": 1,
        "alexq_queue_messages interactive": 0,
        "alexq_queue_messages bulk": 0,
    }


def test_services_that_are_away_or_silent_are_told_of_and_waited_for_by_nobody(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections, says nothing
        port = silent.getsockname()[1]
        settings = settings_for(
            tmp_path,
            f"redis://127.0.0.1:{free_port()}/0",
            database_url=f"postgresql://me:secret@127.0.0.1:{port}/alexq",
        )
        with monitor(settings) as process:
            eventually(lambda: is_serving(settings))
            told = metrics_of(settings)
            process.send_signal(signal.SIGTERM)
            assert process.wait(150) == 0
            assert "secret" not in log_of(settings).read_text()
    assert told == {"alexq_source_up database": 0, "alexq_source_up broker": 0}


@pytest.mark.parametrize(("given", "kept"), [({}, "10000"), ({"FLOWER_MAX_TASKS": "77"}, "77")])
def test_flower_keeps_few_messages_unless_it_is_told_to_keep_more(
    tmp_path: Path, given: dict[str, str], kept: str
) -> None:
    settings = settings_for(tmp_path, "redis://127.0.0.1:1/0")
    code = (
        "from alexq_monitor.app import build; from alexq_schema.settings import Settings;"
        "print(build(Settings.load()).options.max_tasks)"
    )
    printed = subprocess.run(
        [sys.executable, "-c", code], env=environment(settings) | given, capture_output=True, text=True
    )
    assert printed.stdout.split() == [kept], printed.stderr
