"""A Sentinel over TLS, and the master that it names too."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode

import pytest
import redis

from alexq.stack.broker import find_server
from alexq_producer import Producer
from alexq_schema.broker import connect
from alexq_schema.job import JobState
from alexq_schema.names import QUEUE_CLASSIFY
from alexq_schema.settings import Settings
from tests.helpers.eventually import eventually
from tests.helpers.monitor import running_monitor
from tests.helpers.photos import encode, photo_crops
from tests.helpers.ports import free_port
from tests.helpers.processes import WorkerProcess
from tests.helpers.tls import Authority, tls_before

MASTER = "alexq"
PHOTOGRAPH = encode(photo_crops(1)[0], "JPEG")


@dataclass
class Secured:
    """A master and its Sentinel, each behind TLS."""

    url: str
    plain: list[bytes]
    """What was first said to the master without TLS."""

    @property
    def is_only_plain_for_the_sentinel(self) -> bool:
        """It names its connections, at once."""
        return all(b"sentinel-" in first for first in self.plain)


def answers(port: int) -> bool:
    try:
        with redis.Redis(port=port) as client:
            return bool(client.ping())
    except redis.RedisError:
        return False


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., int]]:
    processes: list[subprocess.Popen[bytes]] = []

    def start(*lines: str, is_sentinel: bool = False) -> int:
        port = free_port()
        config = tmp_path / f"{port}.conf"
        config.write_text("\n".join(["bind 127.0.0.1", f"port {port}", f"dir {tmp_path}", *lines, ""]))
        argv = [str(find_server()), str(config), *(["--sentinel"] if is_sentinel else [])]
        with (tmp_path / f"{port}.log").open("wb") as log:
            processes.append(subprocess.Popen(argv, stdout=log, stderr=log))
        eventually(lambda: answers(port), what="the server answers")
        return port

    yield start
    for process in processes:
        process.kill()
        process.wait(60)


@pytest.fixture
def secured(start: Callable[..., int], tmp_path: Path) -> Iterator[Secured]:
    """What the Sentinel says of the master leads to a port that speaks TLS, and to the Sentinel without."""
    authority = Authority(tmp_path)
    plain: list[bytes] = []
    own = authority.issue("client")
    files = {
        "ssl_ca_certs": authority.certificate,
        "ssl_certfile": own.certificate,
        "ssl_keyfile": own.key,
    }
    with tls_before(start('save ""'), authority, plain) as master:
        watching = start(f"sentinel monitor {MASTER} 127.0.0.1 {master} 1", is_sentinel=True)
        with tls_before(watching, authority) as sentinel:
            eventually(lambda: len(plain) >= 2, what="the Sentinel watches the master")
            yield Secured(
                f"sentinel://127.0.0.1:{sentinel}/0?{urlencode({'master_name': MASTER, **files})}", plain
            )


@pytest.fixture
def settings(sqlite_url: str, secured: Secured, models_dir: Path, tmp_path: Path) -> Settings:
    return Settings.load(
        data_dir=tmp_path / "data", database_url=sqlite_url, broker_url=secured.url, models_dir=models_dir
    )


def test_messages_go_out_over_tls_and_no_other_way(settings: Settings, secured: Secured) -> None:
    with Producer(settings) as producer:
        producer.submit(PHOTOGRAPH)
    with connect(settings.broker_url) as client:
        assert client.llen(QUEUE_CLASSIFY) == 1
    assert secured.is_only_plain_for_the_sentinel, secured.plain
    with pytest.raises(redis.RedisError), connect(secured.url.partition("&ssl_ca")[0]) as client:
        client.ping()


def test_worker_and_dashboard_find_the_master_over_tls(
    settings: Settings, secured: Secured, start_worker: Callable[..., WorkerProcess], tmp_path: Path
) -> None:
    worker = start_worker()
    with Producer(settings) as producer:
        jobs = producer.submit([PHOTOGRAPH] * 20).wait(150)
    with running_monitor(settings, tmp_path / "monitor.log") as monitor:
        pages = [monitor.get(path).status_code for path in ("/overview", "/broker")]

    assert {job.state for job in jobs} == {JobState.SUCCEEDED}
    assert pages == [200, 200]
    assert worker.terminate() == 0
    assert secured.is_only_plain_for_the_sentinel, secured.plain
