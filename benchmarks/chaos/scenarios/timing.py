"""How soon a dead worker's jobs return, and that nobody's return who lives."""

from __future__ import annotations

import time

from benchmarks.chaos.scenarios.registry import scenario
from benchmarks.chaos.scene import Scene

RECLAIMED_WITHIN_S = 15.0


def kill_and_time(scene: Scene, within_s: float) -> None:
    """Kill a worker that holds jobs, some times over; time the return of each job."""
    members = scene.workers(2)
    rounds = scene.pick(short=1, full=20)
    for _ in range(rounds):
        scene.submit(scene.jobs(short=100, full=300))
        victim = scene.rng.choice(members)
        scene.wait_holds(victim, 8)
        victim.restarts = rounds > 1
        scene.fleet.kill(victim)
        scene.finish()
        if victim.restarts:
            scene.fleet.wait_ready([victim])
    times = scene.reclaims()
    scene.recovery(times, "job held by a killed worker → taken back")
    scene.note(
        kills=rounds, heartbeat_s=scene.settings.heartbeat_s, silent_after_s=scene.settings.silent_after_s
    )
    scene.promise(bool(times), "a victim held jobs")
    scene.promise(max(times, default=0.0) <= within_s, f"all are taken back within {within_s:.0f} s")


@scenario("reclaim", cost_s=35, heartbeat_s=2.0, silent_after_s=10.0)
def reclaim(scene: Scene) -> None:
    """SIGKILL to reclaimed, with the default settings: heartbeat 2 s, silent after 10 s."""
    kill_and_time(scene, RECLAIMED_WITHIN_S)


@scenario("reclaim-fast", cost_s=30, heartbeat_s=1.0, silent_after_s=5.0)
def reclaim_fast(scene: Scene) -> None:
    """SIGKILL to reclaimed, with heartbeat 1 s, silent after 5 s."""
    kill_and_time(scene, RECLAIMED_WITHIN_S)


@scenario("no-false-reclaim", cost_s=45, heartbeat_s=2.0, silent_after_s=10.0, max_batch=64)
def no_false_reclaim(scene: Scene) -> None:
    """Full load on every core for ten minutes (short: for 600 jobs): no living worker is taken for dead."""
    scene.workers(2)
    began = time.monotonic()
    lasts_s = scene.pick(short=0.0, full=600.0)
    scene.submit(scene.jobs(short=600, full=1_000))
    while time.monotonic() - began < lasts_s:
        scene.submit(scene.jobs(short=600, full=1_000))
        scene.wait_submitted(300.0)
        scene.wait_for(lambda: len(scene.checker.job_ids("queued")) < 500, 300.0, "most of it is done")
    scene.note(load_s=round(time.monotonic() - began))
    scene.finish()
    expect_untroubled(scene)


@scenario("clock-skew", cost_s=30, database="postgresql")
def clock_skew(scene: Scene) -> None:
    """One worker's clock is five minutes ahead, another's five minutes behind: nobody notices."""
    members = []
    for offset_s in ("300", "-300"):
        members += scene.fleet.add(1, ("-m", "benchmarks.chaos.skewed_worker", offset_s))
    scene.fleet.wait_ready(members)
    scene.submit(scene.jobs(short=200, full=5_000), over_s=scene.pick(short=8.0, full=90.0))
    scene.finish()
    expect_untroubled(scene)


def expect_untroubled(scene: Scene) -> None:
    """Promise that every job was claimed once and finished."""
    verdict = scene.verdict()
    scene.promise(verdict.attempts_max == 1 and verdict.again == 0, "every job is claimed once")
    scene.promise(verdict.errors == 0 and verdict.crashes == 0, "no job has an error or a crash")
