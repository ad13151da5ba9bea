"""Redis behind Sentinels: the master is killed, a replica follows it, and no job is lost."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis

from alexq.stack.broker import find_server
from alexq_producer import Producer
from alexq_schema.broker import connect
from alexq_schema.job import JobState
from alexq_schema.names import QUEUE_CLASSIFY
from alexq_schema.settings import Settings
from tests.helpers.eventually import eventually
from tests.helpers.gateway import JPEG, running_gateway
from tests.helpers.monitor import running_monitor
from tests.helpers.photos import distinct, encode, photo_crops
from tests.helpers.ports import free_port
from tests.helpers.processes import WorkerProcess

PASSWORD = "secret"
MASTER = "alexq"


@dataclass
class Server:
    process: subprocess.Popen[bytes]
    port: int

    def client(self) -> redis.Redis:
        return redis.Redis(port=self.port, password=PASSWORD)


class Watched:
    """A master, its replica, and three Sentinels who must agree by two."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.all: list[Server] = []
        self.master = self._start(f"requirepass {PASSWORD}", f"masterauth {PASSWORD}")
        self.replica = self._start(
            f"requirepass {PASSWORD}", f"masterauth {PASSWORD}", f"replicaof 127.0.0.1 {self.master.port}"
        )
        eventually(lambda: self._role(self.replica, "master_link_status") == "up", what="the replica follows")
        self.sentinels = [
            self._start(
                f"sentinel monitor {MASTER} 127.0.0.1 {self.master.port} 2",
                f"sentinel auth-pass {MASTER} {PASSWORD}",
                f"sentinel down-after-milliseconds {MASTER} 4000",
                f"sentinel failover-timeout {MASTER} 5000",
                is_sentinel=True,
            )
            for _ in range(3)
        ]
        eventually(self._sentinels_know_all, what="the Sentinels know each other and the replica")

    def _start(self, *lines: str, is_sentinel: bool = False) -> Server:
        port = free_port()
        folder = self._folder / str(port)
        folder.mkdir()
        config = folder / "server.conf"
        own = () if is_sentinel else ("appendonly yes", 'save ""', "repl-diskless-sync-delay 0")
        config.write_text("\n".join(["bind 127.0.0.1", f"port {port}", f"dir {folder}", *own, *lines, ""]))
        argv = [find_server(), config, *(["--sentinel"] if is_sentinel else [])]
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(argv, stdout=log, stderr=log)
        self.all.append(Server(process, port))
        ask = redis.Redis(port=port, password=None if is_sentinel else PASSWORD)
        eventually(lambda: _answers(ask), what="the server answers")
        ask.close()
        return self.all[-1]

    def _role(self, server: Server, name: str) -> object:
        with server.client() as client:
            return client.info("replication").get(name)

    def _sentinels_know_all(self) -> bool:
        for sentinel in self.sentinels:
            with redis.Redis(port=sentinel.port) as client:
                known = client.sentinel_master(MASTER)
            if (known["num-other-sentinels"], known["num-slaves"]) != (2, 1):
                return False
        return True

    @property
    def url(self) -> str:
        servers = (f"sentinel://:{PASSWORD}@127.0.0.1:{sentinel.port}" for sentinel in self.sentinels)
        return f"{';'.join(servers)}/0?master_name={MASTER}"

    def stop(self) -> None:
        for server in self.all:
            server.process.kill()
            server.process.wait(150)


def _answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.RedisError:
        return False


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    folder = tmp_path / "redis"
    folder.mkdir()
    servers = Watched(folder)
    yield servers
    servers.stop()


@pytest.fixture
def settings(sqlite_url: str, watched: Watched, models_dir: Path, tmp_path: Path) -> Settings:
    return Settings.load(
        data_dir=tmp_path / "data",
        database_url=sqlite_url,
        broker_url=watched.url,
        models_dir=models_dir,
        heartbeat_s=0.5,
        silent_after_s=3.0,
        publish_timeout_s=2.0,
    )


def test_jobs_go_on_when_the_master_is_killed_and_none_is_lost(
    settings: Settings, watched: Watched, start_worker: Callable[..., WorkerProcess]
) -> None:
    photos = [encode(photo_crops(1)[0].resize((256 + n, 256)), "JPEG") for n in range(10)]
    worker = start_worker(max_batch=8, image_s=0.01)
    with Producer(settings) as producer:
        before = producer.submit(distinct(photos, 300))
        eventually(lambda: worker.lines("batch"))

        watched.master.process.kill()
        watched.master.process.wait(150)
        meanwhile = [producer.submit(photos) for _ in range(3)]
        eventually(
            lambda: watched._role(watched.replica, "role") == "master", 150, what="the replica is promoted"
        )
        after = [producer.submit(photos) for _ in range(3)]
        jobs = [job for submission in (before, *meanwhile, *after) for job in submission.wait(200)]

    assert len(jobs) == 360
    assert {job.state for job in jobs} == {JobState.SUCCEEDED}
    with connect(settings.broker_url) as client:
        assert client.info("server")["tcp_port"] == watched.replica.port
    assert worker.terminate() == 0


def test_gateway_and_dashboard_find_the_master(settings: Settings, tmp_path: Path) -> None:
    settings = settings.model_copy(update={"gateway_rate": "100/minute"})
    with running_gateway(settings, tmp_path / "gateway.log") as gateway, gateway.client() as client:
        accepted = client.post("/v1/jobs", content=encode(photo_crops(1)[0], "JPEG"), headers=JPEG)
        ready = client.get("/readyz").json()
        with connect(settings.broker_url) as redis_client:
            eventually(lambda: redis_client.llen(QUEUE_CLASSIFY) == 1, what="the message is on the master")
    with running_monitor(settings, tmp_path / "monitor.log") as monitor:
        pages = [monitor.get(path).status_code for path in ("/overview", "/broker", "/workers?json=1")]

    assert accepted.status_code == 202, accepted.text
    assert ready["broker"] == "ok"
    assert pages == [200, 200, 200]
