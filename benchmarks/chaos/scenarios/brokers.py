"""Redis loses its data, dies, hangs, is full. Jobs are rows; messages are only told again."""

from __future__ import annotations

import time
from uuid import UUID

from benchmarks.chaos import audit
from benchmarks.chaos.scenarios.registry import scenario
from benchmarks.chaos.scene import Scene

REPUBLISHED_WITHIN_S = 30.0
SUBMITTED_WITHIN_S = 15.0


@scenario("redis-flushall", cost_s=35, database="postgresql")
def redis_flushall(scene: Scene) -> None:
    """FLUSHALL with thousands queued and the pipeline full: the queue is told again within 30 s."""
    scene.workers(scene.pick(short=1, full=2))
    scene.submit(scene.jobs(short=300, full=5_500))
    scene.wait_submitted()
    queued = scene.checker.job_ids("queued")
    at = time.time()
    scene.broker.flush()
    scene.finish()
    scene.nobody_died()
    expect_told_again(scene, queued, at)


def expect_told_again(scene: Scene, queued: set[UUID], at: float) -> None:
    """Note, and promise, how soon jobs whose messages were lost at ``at`` are told again or claimed."""
    times = audit.next_events(scene.checker.changes(), queued, at)
    scene.recovery(times, "message lost → published again, or claimed")
    scene.note(queued_then=len(queued))
    scene.promise(bool(queued), "jobs were queued when the queue was lost")
    scene.promise(max(times, default=0.0) <= REPUBLISHED_WITHIN_S, "the lost queue is told again within 30 s")


def kill_and_start(scene: Scene) -> None:
    """SIGKILL the broker under load, start it again a second later."""
    scene.workers(scene.pick(short=1, full=2))
    scene.submit(scene.jobs(short=150, full=5_000))
    scene.submit(scene.jobs(short=40, full=2_000), over_s=scene.pick(short=6.0, full=60.0))
    scene.wait_succeeded(10)
    kills = scene.pick(short=1, full=5)
    returns = []
    lost: list[tuple[set[UUID], float]] = []
    for _ in range(kills):
        lost.append((scene.checker.job_ids("queued"), time.time()))
        scene.broker.kill()
        scene.sleep(1.0)
        returns.append(time.time())
        scene.broker.start()
        scene.sleep(scene.pick(short=1.0, full=12.0))
    scene.finish()
    scene.nobody_died()
    changes = scene.checker.changes()
    told = [seconds for queued, at in lost for seconds in audit.next_events(changes, queued, at)]
    scene.note(kills=kills, queued_then=len(lost[0][0]), last_told_again_s=round(max(told, default=0.0), 1))
    scene.promise(bool(lost[0][0]), "jobs were queued when the broker was killed")
    recovered = [audit.next_success(changes, moment) for moment in returns]
    scene.recovery([s for s in recovered if s is not None], "broker started → next job succeeds")


@scenario("redis-kill9-aof", cost_s=30)
def redis_kill9_aof(scene: Scene) -> None:
    """The broker is killed and comes back with its append-only file."""
    kill_and_start(scene)


@scenario("redis-kill9-no-aof", cost_s=40, aof=False)
def redis_kill9_no_aof(scene: Scene) -> None:
    """The broker is killed and comes back empty."""
    kill_and_start(scene)


@scenario("redis-restarts", cost_s=30)
def redis_restarts(scene: Scene) -> None:
    """The broker is restarted again and again under load."""
    scene.workers(scene.pick(short=1, full=2))
    restarts = scene.pick(short=3, full=10)
    scene.submit(scene.jobs(short=150, full=5_000), over_s=scene.pick(short=8.0, full=60.0))
    scene.wait_succeeded(1)
    returns = []
    for _ in range(restarts):
        returns.append(time.time())
        scene.broker.restart()
        scene.sleep(scene.pick(short=2.0, full=6.0) * scene.rng.uniform(0.5, 1.5))
    scene.finish()
    scene.nobody_died()
    scene.note(restarts=restarts)
    recovered = [audit.next_success(scene.checker.changes(), moment) for moment in returns]
    scene.recovery([s for s in recovered if s is not None], "broker started → next job succeeds")


@scenario("redis-unreachable", cost_s=40, publish_timeout_s=2.0)
def redis_unreachable(scene: Scene) -> None:
    """The broker's process is frozen: submissions go on being accepted, each in bounded time."""
    scene.workers(1)
    pause_s = scene.pick(short=10.0, full=60.0)
    scene.submit(scene.jobs(short=200, full=3_000), over_s=pause_s + 4.0)
    scene.wait_succeeded(1)
    scene.broker.pause()
    began = time.time()
    scene.sleep(pause_s)
    scene.broker.resume()
    ended = time.time()
    scene.finish()
    scene.nobody_died()
    told = scene.told()
    during = [took_s for at, took_s in told.accepted_at if began + 1.0 < at < ended]
    scene.note(calls_accepted_meanwhile=len(during), slowest_call_s=round(max(during, default=0.0), 2))
    scene.promise(bool(during), "submissions are accepted while the broker hangs")
    scene.promise(max(during, default=0.0) < SUBMITTED_WITHIN_S, "each of them returns within 15 s")
    recovered = audit.next_success(scene.checker.changes(), ended)
    scene.recovery([recovered] if recovered is not None else [], "broker answers → next job succeeds")


@scenario("redis-maxmemory", cost_s=30)
def redis_maxmemory(scene: Scene) -> None:
    """The broker is full and refuses writes while jobs are submitted; later it has room again."""
    scene.workers(1)
    full_s = scene.pick(short=5.0, full=30.0)
    scene.submit(scene.jobs(short=150, full=4_000), over_s=full_s + 3.0)
    scene.wait_succeeded(1)
    scene.broker.limit_memory(1)
    began = time.time()
    scene.sleep(full_s)
    refused = scene.broker.info("errorstats").get("errorstat_OOM", {}).get("count", 0)
    scene.broker.limit_memory(None)
    ended = time.time()
    scene.finish()
    scene.nobody_died()
    during = [took_s for at, took_s in scene.told().accepted_at if began < at < ended]
    scene.note(writes_refused_by_redis=refused, calls_accepted_meanwhile=len(during))
    scene.promise(refused > 0, "the broker was full")
    scene.promise(bool(during), "submissions are accepted while the broker is full")
    recovered = audit.next_success(scene.checker.changes(), ended)
    scene.recovery([recovered] if recovered is not None else [], "broker has room → next job succeeds")
