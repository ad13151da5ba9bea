"""An image that kills whatever decodes it."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

from sqlalchemy import text

from benchmarks.chaos import audit
from benchmarks.chaos.audit import Change
from benchmarks.chaos.reference import POISON
from benchmarks.chaos.scenarios.registry import scenario
from benchmarks.chaos.scene import Scene

POISONED = Path(__file__).parent.parent / "poisoned"
BACK_WITHIN_S = 60.0
WINDOW_S = 3.0


@scenario("poison", cost_s=60, heartbeat_s=0.5, silent_after_s=3.0)
def poison(scene: Scene) -> None:
    """One image out of many kills the process that decodes it: one job is dead, all others succeed."""
    scene.some_may_fail()
    key = hashlib.sha256((scene.campaign.answers.folder / f"{POISON}.jpg").read_bytes()).hexdigest()
    path = os.pathsep.join(filter(None, [str(POISONED), os.environ.get("PYTHONPATH", "")]))
    members = scene.fleet.add(2, env={"CHAOS_POISON": key, "PYTHONPATH": path})
    scene.fleet.wait_ready(members)
    scene.submit(scene.jobs(short=250, full=6_000), over_s=scene.pick(short=12.0, full=90.0))
    scene.wait_succeeded(40)
    scene.submit_one(POISON)
    scene.finish()
    bad = rows(scene, "image_key = :key", key)
    others = rows(scene, "image_key <> :key AND state <> 'succeeded'", key)
    scene.promise(len(bad) == 1, "the poisonous job is there")
    for row in bad:
        what = f"state {row['state']}, crashes {row['crashes']}, error {row['error_code']}"
        is_dead = row["state"] == "dead" and row["error_code"] == "worker_crashed" and row["crashes"] <= 3
        scene.promise(is_dead, f"the poisonous job is dead after at most 3 crashes, not: {what}")
    scene.promise(not others, f"all other jobs succeed, but {len(others)} did not")
    deaths = sorted(at for member in members for _, at in member.exits)
    scene.note(worker_deaths=len(deaths))
    if deaths:
        back_s = throughput_back(scene.checker.changes(), deaths[0])
        scene.recovery([back_s], "first worker death → half of the former throughput")
        scene.promise(back_s <= BACK_WITHIN_S, "throughput is back within 60 s")


def rows(scene: Scene, where: str, key: str) -> list[dict[str, Any]]:
    """Return jobs, by a condition on ``:key``."""
    engine = audit.engine(scene.settings.database_url)
    with engine.connect() as connection:
        statement = text(f"SELECT id, state, crashes, error_code FROM jobs WHERE {where}")
        return [dict(row) for row in connection.execute(statement, {"key": key}).mappings()]


def throughput_back(changes: list[Change], died_at: float) -> float:
    """Return the seconds from ``died_at`` to a window with half the jobs/s of before, or to the last job."""
    done = [change.at for change in changes if change.new == "succeeded"]
    earlier = [at for at in done if at <= died_at]
    later = [at for at in done if at > died_at]
    if not earlier or not later:
        return float("inf")
    rate = len(earlier) / max(1.0, died_at - earlier[0])
    for start in later:
        if sum(start <= at < start + WINDOW_S for at in later) >= 0.5 * rate * WINDOW_S:
            return start - died_at
    return later[-1] - died_at
