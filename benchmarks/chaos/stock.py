"""The same faults against stock Celery + Redis: how much is lost, or done twice, without the SQL table."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import redis
from celery import Celery
from kombu.exceptions import KombuError
from redis.backoff import NoBackoff
from redis.retry import Retry

from benchmarks.chaos.campaign import Campaign, Row
from benchmarks.chaos.processes import kill_tree
from benchmarks.chaos.servers import Broker

IMAGES = 40
POISON = 7
QUEUE = "celery"


class StockScene:
    """A broker, prefork workers that are started again, and a client that remembers what it sent."""

    def __init__(self, campaign: Campaign, name: str, *, aof: bool = True, poison: bool = False) -> None:
        self.campaign = campaign
        self.processes = campaign.processes
        self.rng = random.Random(f"{campaign.seed} stock {name}")
        self.folder = campaign.folder / f"stock-{name}"
        self.folder.mkdir()
        self.row = Row(name, system="celery")
        self._began = time.monotonic()
        self.broker = Broker(campaign.processes, self.folder / "broker", aof=aof)
        self.broker.start()
        self._executions = self.folder / "executions"
        self._executions.touch()
        self._env = {
            **os.environ,
            "CHAOS_BROKER": self.broker.url,
            "CHAOS_EXECUTIONS": str(self._executions),
            "CHAOS_POISON": str(POISON if poison else -1),
        }
        self._poison = poison
        options = {"socket_timeout": 5, "socket_connect_timeout": 5, "max_retries": 1}
        self._client = Celery("client", broker=self.broker.url, backend=self.broker.url, set_as_current=False)
        self._client.conf.update(broker_transport_options=options)
        self.accepted: dict[int, str] = {}
        """Task id by number, of every message that Redis took."""
        self._workers: list[subprocess.Popen[bytes]] = []

    def start_worker(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start a prefork worker with two children."""
        argv = [sys.executable, "-m", "benchmarks.chaos.stock_app", *arguments]
        log = self.folder / f"worker-{len(self._workers)}.log"
        process = self.processes.start(argv, log=log, env=self._env)
        self._workers.append(process)
        return process

    def submit(self, count: int) -> None:
        """Send tasks; what raises is not accepted and not sent again."""
        for _ in range(count):
            number = len(self.accepted)
            image = POISON if self._poison and number == count // 2 else self.rng.randrange(POISON)
            task_id = str(uuid4())
            try:
                self._client.send_task("stock.classify", args=(number, image), task_id=task_id, retry=False)
            except (KombuError, OSError):
                continue
            self.accepted[number] = task_id

    def executed(self) -> Counter[int]:
        """Return how often each number ran."""
        return Counter(int(line) for line in self._executions.read_text().split())

    def wait_executed(self, count: int, timeout_s: float = 60.0) -> None:
        """Wait until so many have run."""
        self.processes.wait_for(lambda: len(self.executed()) >= count, timeout_s, what=f"{count} tasks ran")

    def finish(self, limit_s: float) -> None:
        """Wait until everything has a result, but not longer."""
        deadline = time.monotonic() + limit_s
        while time.monotonic() < deadline:
            if len(self._results()) == len(self.accepted) or self._is_settled():
                break
            self.processes.sleep(0.5)

    def _is_settled(self) -> bool:
        """Return whether nothing is queued or in a worker's hands: what has not run never will."""
        with self._redis() as client:
            return not client.llen(QUEUE) and not client.hlen("unacked")

    def _redis(self) -> redis.Redis:
        return redis.Redis.from_url(self.broker.url, socket_timeout=5, retry=Retry(NoBackoff(), 1))

    def _results(self) -> set[int]:
        keys = [f"celery-task-meta-{task_id}" for task_id in self.accepted.values()]
        with self._redis() as client:
            values: list[Any] = client.mget(keys) if keys else []
        done = [value is not None and json.loads(value)["status"] == "SUCCESS" for value in values]
        return {number for number, is_done in zip(self.accepted, done, strict=True) if is_done}

    def _waiting(self) -> set[str]:
        with self._redis() as client:
            queued = [json.loads(message) for message in client.lrange(QUEUE, 0, -1)]
            unacked = [json.loads(value)[0] for value in client.hvals("unacked")]
        return {message["headers"]["id"] for message in (*queued, *unacked)}

    def close(self) -> Row:
        """Count, stop everything, and return the row."""
        executed, results, waiting = self.executed(), self._results(), self._waiting()
        self.end()
        open_numbers = [number for number in self.accepted if number not in results]
        unfinished = [number for number in open_numbers if self.accepted[number] in waiting]
        gone = [n for n in open_numbers if n not in unfinished and executed[n]]
        row = self.row
        row.jobs = len(self.accepted)
        row.lost = len(open_numbers) - len(unfinished) - len(gone)
        row.duplicated = sum(count > 1 for number, count in executed.items())
        row.details |= {
            "unfinished": len(unfinished),
            "results_gone": len(gone),
            "executions": sum(executed.values()),
        }
        row.duration_s = round(time.monotonic() - self._began, 1)
        return row

    def end(self) -> None:
        """Kill everything that this scene started."""
        for worker in self._workers:
            kill_tree(worker.pid)
        kill_tree(self.broker.pid)
        self._client.close()


def sigkill(scene: StockScene, jobs: int, limit_s: float) -> None:
    """A random worker is killed, with its children, every few seconds."""
    workers = [scene.start_worker(), scene.start_worker()]
    for _ in range(3):
        scene.submit(jobs // 3)
        scene.wait_executed(len(scene.executed()) + 30)
        place = scene.rng.randrange(2)
        kill_tree(workers[place].pid)
        workers[place] = scene.start_worker()
        scene.processes.sleep(1.0)
    scene.finish(limit_s)


def flushall(scene: StockScene, jobs: int, limit_s: float) -> None:
    """FLUSHALL with messages queued."""
    scene.start_worker()
    scene.submit(jobs)
    scene.wait_executed(30)
    scene.broker.flush()
    scene.finish(limit_s)


def broker_kill(scene: StockScene, jobs: int, limit_s: float) -> None:
    """The broker is killed and started again."""
    scene.start_worker()
    scene.submit(jobs)
    scene.wait_executed(30)
    scene.broker.kill()
    scene.processes.sleep(1.0)
    scene.broker.start()
    scene.processes.sleep(3.0)
    scene.finish(limit_s)


def poison(scene: StockScene, jobs: int, limit_s: float) -> None:
    """One message kills the pool's process that runs it, every time."""
    scene.start_worker()
    scene.submit(jobs)
    scene.finish(limit_s)


def popped(scene: StockScene, jobs: int, limit_s: float) -> None:
    """A worker dies between the pop of a message and the note in ``unacked``."""
    doomed = scene.start_worker("--failpoint", "popped", "--after", "20")
    scene.submit(jobs)
    scene.processes.wait_for(lambda: doomed.poll() is not None, 60.0, what="the window is hit")
    kill_tree(doomed.pid)
    scene.start_worker()
    scene.finish(limit_s)


BODIES: dict[str, tuple[Callable[[StockScene, int, float], None], dict[str, Any]]] = {
    "worker-sigkill": (sigkill, {}),
    "redis-flushall": (flushall, {}),
    "redis-kill9-aof": (broker_kill, {}),
    "redis-kill9-no-aof": (broker_kill, {"aof": False}),
    "poison": (poison, {"poison": True}),
    "popped": (popped, {}),
}


def run(campaign: Campaign, name: str) -> Row:
    """Run one comparison."""
    body, options = BODIES[name]
    jobs, limit_s = (600, 35.0) if campaign.profile == "short" else (5_000, 120.0)
    scene = StockScene(campaign, name, **options)
    try:
        body(scene, max(60, round(jobs * campaign.jobs_scale)), limit_s)
        return scene.close()
    except BaseException:
        scene.end()
        raise
