"""Worker processes die, hang and are replaced."""

from __future__ import annotations

import time
from uuid import UUID

from benchmarks.chaos.fleet import Member
from benchmarks.chaos.scenarios.registry import scenario
from benchmarks.chaos.scene import LIMIT_S, Scene

KILL_EVERY_S = 5.0


# The limit of crashes is the default: bad luck, however often, must not make a job dead.
@scenario("worker-sigkill", cost_s=45, database="postgresql")
def worker_sigkill(scene: Scene) -> None:
    """A random worker is killed every 5 s under load, if another one is ready."""
    scene.workers(scene.pick(short=2, full=3))
    scene.submit(scene.jobs(short=300, full=20_000), over_s=scene.pick(short=12.0, full=0.0))
    scene.wait_succeeded(1)
    deadline = time.monotonic() + scene.pick(short=16.0, full=1_800.0)
    while scene.is_busy() and time.monotonic() < deadline:
        scene.fleet.kill_random()
        scene.sleep(KILL_EVERY_S * scene.rng.uniform(0.9, 1.1))
    scene.finish()
    scene.note(kills=len(scene.fleet.kills))
    scene.recovery(scene.reclaims(), "job held by a killed worker → taken back")


@scenario("worker-sigstop", cost_s=30, database="postgresql", heartbeat_s=0.5, silent_after_s=3.0)
def worker_sigstop(scene: Scene) -> None:
    """A worker is paused past the silence limit and wakes up with results that are no longer wanted."""
    first, _ = scene.workers(2)
    scene.submit(scene.jobs(short=300, full=5_000), over_s=scene.pick(short=10.0, full=80.0))
    rounds = scene.pick(short=1, full=5)
    for _ in range(rounds):
        held = pause_with_jobs(scene, first)
        # Others must have finished all of them: only then could a late commit overwrite a result.
        scene.wait_for(lambda held=held: is_finished(scene, held), LIMIT_S, "others do its jobs")  # type: ignore[misc]
        scene.fleet.resume(first)
        scene.sleep(2.0)
    scene.finish()
    fenced = sum(int(line["fenced"]) > 0 for line in scene.fleet.lines("batch"))
    scene.note(batches_fenced=fenced, pauses=rounds)
    scene.promise(fenced > 0, "the late worker's commits are fenced, and its log says so")


def pause_with_jobs(scene: Scene, member: Member, at_least: int = 4) -> set[UUID]:
    """SIGSTOP a worker while it holds jobs; return them."""

    def caught() -> set[UUID]:
        if len(scene.checker.held_by(member.pid)) < at_least:
            return set()
        scene.fleet.pause(member)
        if len(held := scene.checker.held_by(member.pid)) >= at_least:
            return held
        scene.fleet.resume(member)
        return set()

    return scene.wait_for(caught, LIMIT_S, "a worker is paused while it holds jobs")


def is_finished(scene: Scene, job_ids: set[UUID]) -> bool:
    """Return whether all of these have succeeded."""
    return job_ids <= scene.checker.job_ids("succeeded")


@scenario("rolling-restart", cost_s=45)
def rolling_restart(scene: Scene) -> None:
    """Each worker gets SIGTERM twice, in turn, under load: nobody notices."""
    members = scene.workers(2)
    scene.submit(scene.jobs(short=300, full=10_000), over_s=scene.pick(short=16.0, full=120.0))
    scene.wait_succeeded(1)
    rounds = scene.pick(short=2, full=5)
    codes = [scene.fleet.restart(member) for _ in range(rounds) for member in members]
    scene.finish()
    verdict = scene.verdict()
    scene.promise(not any(codes), f"every worker exits 0, not {codes}")
    scene.promise(verdict.attempts_max == 1, f"every job has attempt 1, not {verdict.attempts_max}")
    scene.promise(not verdict.errors and not verdict.crashes, "no job has an error or a crash")
    scene.note(restarts=len(codes))
