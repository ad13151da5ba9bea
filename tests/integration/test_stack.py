"""``alexq up`` and ``alexq demo`` as a person runs them: real processes, real signals."""

from __future__ import annotations

import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from redis import Redis
from redis.exceptions import AuthenticationError

from alexq.demo_pictures import sample_photographs
from alexq.stack.broker import EmbeddedBroker
from alexq.stack.environment import environment
from alexq.stack.log import Log
from alexq.stack.supervisor import Child, Supervisor
from alexq_producer import Producer
from alexq_schema.errors import StackNotRunningError
from alexq_schema.job import JobState
from alexq_schema.models import ModelStore
from alexq_schema.names import TASK_CLASSIFY_JOBS
from alexq_schema.settings import Settings, StackFile
from alexq_worker.training.texture_model import TEXTURES_REF
from tests.helpers.eventually import eventually
from tests.helpers.ports import free_port

START_S = 300.0


@dataclass
class Up:
    """A running ``alexq up``."""

    process: subprocess.Popen[bytes]
    data_dir: Path
    log_path: Path

    @property
    def log(self) -> str:
        return self.log_path.read_text("utf-8", "replace")

    @property
    def settings(self) -> Settings:
        return Settings.load(data_dir=self.data_dir, **StackFile.read(self.data_dir).settings())

    def children(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def child(self, marker: str) -> psutil.Process:
        """The child with ``marker`` as one of its arguments."""
        return next(child for child in self.children() if marker in arguments_of(child))


def arguments_of(process: psutil.Process) -> list[str]:
    """Return its command line; empty where it has ended meanwhile."""
    try:
        return list(process.cmdline())
    except psutil.NoSuchProcess:  # which a zombie is, too
        return []


def is_gone(process: psutil.Process) -> bool:
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def stack_environment(data_dir: Path, models_dir: Path) -> dict[str, str]:
    settings = Settings.load(
        data_dir=data_dir,
        models_dir=models_dir,
        database_url="",
        broker_url="",
        gateway_port=free_port(),
        monitor_port=free_port(),  # several test runs may share this machine
        max_batch=8,
    )
    env = environment(settings)
    del env["ALEXQ_MONITOR_ADMIN"]  # what `alexq up` makes of it where nobody says
    return env


def is_running(data_dir: Path) -> bool:
    try:
        StackFile.read(data_dir)
    except StackNotRunningError:
        return False
    return True


@contextmanager
def running(data_dir: Path, models_dir: Path) -> Iterator[Up]:
    log_path = data_dir.with_suffix(".log")
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "alexq", "up", "--data-dir", str(data_dir)],
            env=stack_environment(data_dir, models_dir),
            stderr=log,
        )
    up = Up(process, data_dir, log_path)
    try:
        eventually(lambda: is_running(data_dir) or process.poll() is not None, timeout_s=START_S)
        assert process.poll() is None, up.log
        yield up
    finally:
        process.terminate()
        try:
            process.wait(150)
        finally:
            process.kill()


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory, models_dir: Path) -> Iterator[Up]:
    with running(tmp_path_factory.mktemp("stack") / "data", models_dir) as running_up:
        yield running_up


def classify(settings: Settings) -> list[JobState | str]:
    with Producer(settings) as producer:
        submission = producer.submit(sample_photographs())
        return [job.state for job in submission.results(timeout_s=200)]


@pytest.mark.slow
def test_it_classifies_and_ctrl_c_leaves_nothing_behind(tmp_path: Path, models_dir: Path) -> None:
    data_dir = tmp_path / "data"
    with running(data_dir, models_dir) as up:
        assert classify(up.settings) == [JobState.SUCCEEDED] * 2
        children = up.children()
        assert up.child("alexq_producer.webhooks") in children
        assert len(children) >= 5

        up.process.send_signal(signal.SIGINT)
        assert up.process.wait(150) == 0, up.log

        assert [child for child in children if not is_gone(child)] == []
        assert not StackFile.path(data_dir).exists()
        assert "Traceback" not in up.log
    # What was queued, stored and classified is there at the next start.
    assert (data_dir / "alexq.db").exists()
    assert (data_dir / "broker" / "appendonlydir").is_dir()


@pytest.mark.slow
def test_a_second_stack_on_the_same_folder_is_refused_with_the_pid_of_the_first(up: Up) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "alexq", "up", "--data-dir", str(up.data_dir)],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 4
    assert f"error [stack_running]: another `alexq up` (pid {up.process.pid})" in done.stderr
    assert StackFile.read(up.data_dir).pid == up.process.pid


@pytest.mark.slow
def test_only_its_owner_can_read_the_stacks_secrets(up: Up) -> None:
    def mode(path: Path) -> int:
        return stat.S_IMODE(path.stat().st_mode)

    assert mode(up.data_dir) == 0o700
    assert mode(up.data_dir / "broker") == 0o700
    assert mode(up.data_dir / "broker" / "broker.conf") == 0o600
    assert mode(StackFile.path(up.data_dir)) == 0o600
    classify(up.settings)
    files = [*(up.data_dir / "broker").rglob("*"), *up.data_dir.glob("alexq.db*")]
    modes = {path.name: mode(path) for path in files if path.is_file()}
    assert {"alexq.db", "alexq.db-wal", "broker.conf"} <= modes.keys()
    assert any(name.endswith(".aof") for name in modes)
    assert set(modes.values()) == {0o600}
    password = up.settings.broker_url.split(":")[2].split("@")[0]
    assert not any(password in " ".join(arguments_of(child)) for child in up.children())
    assert password not in up.log


@pytest.mark.slow
def test_the_dashboard_of_the_stack_sees_the_tasks(up: Up) -> None:
    url = StackFile.read(up.data_dir).monitor_url

    def page(path: str) -> str:
        with urllib.request.urlopen(f"{url}/{path}", timeout=120) as response:
            return str(response.read(), "utf-8")

    assert "Flower" in page("")
    classify(up.settings)
    eventually(lambda: TASK_CLASSIFY_JOBS in page("metrics"), what="the task's events reach the dashboard")


@pytest.mark.slow
def test_the_dashboard_of_a_stack_on_loopback_may_act(up: Up) -> None:
    assert up.child("alexq_monitor").environ()["ALEXQ_MONITOR_ADMIN"] == "True"


@pytest.mark.slow
def test_the_stack_says_where_its_page_is_which_links_to_the_dashboard(up: Up) -> None:
    stack = StackFile.read(up.data_dir)

    with urllib.request.urlopen(stack.gateway_url, timeout=120) as response:
        page = str(response.read(), "utf-8")

    assert f"page      {stack.gateway_url}" in up.log
    assert f'<a href="{stack.monitor_url}">Dashboard</a>' in page


@pytest.mark.slow
def test_a_worker_that_was_killed_comes_back_and_works(up: Up) -> None:
    before = up.child("alexq_worker")
    before.send_signal(signal.SIGKILL)
    eventually(lambda: "worker is ready again" in up.log, timeout_s=START_S)
    assert up.child("alexq_worker").pid != before.pid
    assert classify(up.settings) == [JobState.SUCCEEDED] * 2


@pytest.mark.slow
def test_a_broker_that_was_killed_comes_back_at_its_address(up: Up) -> None:
    url = up.settings.broker_url
    seen = up.log.count("broker is ready again")
    next(child for child in up.children() if "-server" in "".join(arguments_of(child)[:1])).send_signal(
        signal.SIGKILL
    )
    eventually(lambda: up.log.count("broker is ready again") > seen, timeout_s=START_S)
    assert up.settings.broker_url == url
    assert classify(up.settings) == [JobState.SUCCEEDED] * 2


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's parent-death signal is Linux's")
def test_no_process_outlives_a_killed_supervisor(tmp_path: Path, models_dir: Path) -> None:
    with running(tmp_path / "data", models_dir) as up:
        children = up.children()
        up.process.kill()
        eventually(lambda: all(map(is_gone, children)), timeout_s=10, what="the children are gone")
        up.process.wait(60)
        assert not is_running(up.data_dir)


def test_a_folder_that_cannot_be_used_is_said_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = subprocess.run(
        [sys.executable, "-m", "alexq", "up", "--data-dir", str(tmp_path / "file" / "data")],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 3
    assert done.stderr.startswith("error [stack]: cannot use the data folder")
    assert len(done.stderr.splitlines()) == 1


def test_a_broker_that_does_not_answer_is_said_in_one_line(tmp_path: Path) -> None:
    url = f"redis://127.0.0.1:{free_port()}/0"
    settings = Settings.load(data_dir=tmp_path / "data", broker_url=url)
    done = subprocess.run(
        [sys.executable, "-m", "alexq", "up"],
        env=environment(settings),
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 3
    assert "error [broker_unavailable]: the broker does not answer" in done.stderr
    assert "Traceback" not in done.stderr


def test_commands_without_a_stack_say_how_to_start_one(tmp_path: Path) -> None:
    for command in ("worker", "monitor", "migrate"):
        done = subprocess.run(
            [sys.executable, "-m", "alexq", command, "--data-dir", str(tmp_path)],
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
        assert done.returncode == 3
        assert "alexq up" in done.stderr
        assert done.stdout == ""


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[EmbeddedBroker]:
    made = EmbeddedBroker.configure(tmp_path / "broker")
    supervisor = Supervisor(Log())
    supervisor.start(broker_child(made))
    yield made
    supervisor.stop()


def broker_child(broker: EmbeddedBroker) -> Child:
    return Child("broker", broker.argv, os.environ, is_ready=lambda _pid: broker.is_ready())


def test_the_broker_refuses_whoever_has_no_password(broker: EmbeddedBroker) -> None:
    with Redis(host="127.0.0.1", port=broker.port) as stranger, pytest.raises(AuthenticationError):
        stranger.ping()


def test_the_broker_never_drops_what_it_accepted(broker: EmbeddedBroker) -> None:
    with Redis.from_url(broker.url) as client:
        settings = client.config_get("*")
    assert settings["maxmemory-policy"] == "noeviction"
    assert settings["appendonly"] == "yes"
    assert settings["bind"] == "127.0.0.1"


def test_what_the_broker_holds_survives_a_new_stack(tmp_path: Path) -> None:
    for write in (True, False):
        broker = EmbeddedBroker.configure(tmp_path / 'data "with" quotes')
        supervisor = Supervisor(Log())
        supervisor.start(broker_child(broker))
        with Redis.from_url(broker.url) as client:
            if write:
                client.lpush("queue", "message")
            else:
                assert client.lrange("queue", 0, -1) == [b"message"]
        supervisor.stop()


@pytest.mark.slow
@pytest.mark.timeout(1_200)
def test_the_demo_trains_a_model_where_there_is_no_network_and_shows_how_often_it_is_right(
    tmp_path: Path, models_dir: Path
) -> None:
    own = ModelStore(shutil.copytree(models_dir, tmp_path / "models", copy_function=os.link))
    done = subprocess.run(
        [sys.executable, "-m", "alexq", "demo", "--textures", "--data-dir", str(tmp_path / "demo")],
        env=stack_environment(tmp_path / "unused", own.models_dir),
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    info = own.find(TEXTURES_REF).info
    assert info.trained
    assert "generated textures" in info.source
    assert info.training is not None
    assert info.training.held_out.top1 >= 0.9
    [accuracy] = re.findall(r"of 32 right: accuracy ([\d.]+)%", done.stdout)
    assert float(accuracy) >= 90
    assert f"model {TEXTURES_REF}" in done.stdout
    assert "UNTRAINED" not in done.stdout
    assert str(tmp_path / "demo" / "alexq.db") in done.stderr
    assert "\x1b" not in done.stdout + done.stderr
    assert not is_running(tmp_path / "demo")
    # Served to those who ask for it only: on photographs its labels would be sure of themselves, and wrong.
    assert own.active_ref() == ModelStore(models_dir).active_ref()
    # A second demo does not train again.
    again = subprocess.run(
        [sys.executable, "-m", "alexq_worker.models", "demo", "--textures", str(tmp_path / "pictures")],
        env=stack_environment(tmp_path / "unused", own.models_dir),
        capture_output=True,
        text=True,
        timeout=200,
        check=True,
    )
    assert (again.stdout, again.stderr) == (f"{TEXTURES_REF}\n", "")


@pytest.mark.slow
def test_ctrl_c_in_the_demo_leaves_no_process(tmp_path: Path, models_dir: Path) -> None:
    demo = subprocess.Popen(
        [sys.executable, "-m", "alexq", "demo", "--data-dir", str(tmp_path / "demo")],
        env=stack_environment(tmp_path / "unused", models_dir)
        | {"ALEXQ_MODEL": str(ModelStore(models_dir).active_ref())},
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    try:
        # The stack's lock file is there: it is starting its parts.
        eventually((tmp_path / "demo" / "stack.lock").exists, timeout_s=150)
        children = psutil.Process(demo.pid).children(recursive=True)
        demo.send_signal(signal.SIGINT)
        assert demo.wait(150) == 130
    finally:
        demo.kill()
    eventually(lambda: all(map(is_gone, children)), timeout_s=60)
