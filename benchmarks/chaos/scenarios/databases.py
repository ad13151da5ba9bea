"""The database goes away, is restarted, ends sessions, is locked. Work waits; nothing is done twice."""

from __future__ import annotations

import sys
import time

from benchmarks.chaos import audit
from benchmarks.chaos.scenarios.registry import scenario
from benchmarks.chaos.scene import Scene

_LOCK = (
    "import sqlite3, sys, time\n"
    "connection = sqlite3.connect(sys.argv[1], timeout=30, isolation_level=None)\n"
    "connection.execute('BEGIN IMMEDIATE')\n"
    "print('locked', flush=True)\n"
    "time.sleep(float(sys.argv[2]))\n"
    "connection.execute('ROLLBACK')\n"
)


def expect_recovery(
    scene: Scene, returns: list[float], of: str = "database started → next job succeeds"
) -> None:
    """Set the row's recovery from the moments at which the database came back."""
    changes = scene.checker.changes()
    recovered = [audit.next_success(changes, moment) for moment in returns]
    scene.recovery([seconds for seconds in recovered if seconds is not None], of)


@scenario("postgres-restarts", cost_s=35, database="postgresql")
def postgres_restarts(scene: Scene) -> None:
    """PostgreSQL is restarted every 10 s, by turns in good order and by SIGKILL."""
    scene.workers(scene.pick(short=1, full=2))
    restarts, every_s = scene.pick(short=(2, 4.0), full=(12, 10.0))
    scene.submit(scene.jobs(short=150, full=8_000), over_s=restarts * every_s + 2.0)
    scene.wait_succeeded(1)
    returns = []
    for number in range(restarts):
        if number % 2:
            scene.postgres.kill()
        else:
            scene.postgres.stop()
        scene.sleep(0.5)
        returns.append(time.time())
        scene.postgres.start()
        scene.sleep(every_s * scene.rng.uniform(0.8, 1.2))
    scene.finish()
    scene.nobody_died()
    scene.note(restarts=restarts)
    expect_recovery(scene, returns)


@scenario("postgres-backend-kills", cost_s=25, database="postgresql")
def postgres_backend_kills(scene: Scene) -> None:
    """Every session is ended twice a second."""
    scene.workers(scene.pick(short=1, full=2))
    lasts_s = scene.pick(short=6.0, full=60.0)
    scene.submit(scene.jobs(short=150, full=4_000), over_s=lasts_s)
    scene.wait_succeeded(1)
    rounds = int(lasts_s / 0.5)
    for _ in range(rounds):
        scene.postgres.terminate_backends()
        scene.sleep(0.5)
    at = time.time()
    scene.finish()
    scene.nobody_died()
    scene.note(rounds=rounds)
    expect_recovery(scene, [at], "last session ended → next job succeeds")


@scenario("postgres-down", cost_s=35, database="postgresql")
def postgres_down(scene: Scene) -> None:
    """PostgreSQL is away for a minute (8 s in the short profile)."""
    scene.workers(scene.pick(short=1, full=2))
    away_s = scene.pick(short=8.0, full=60.0)
    scene.submit(scene.jobs(short=150, full=4_000), over_s=scene.pick(short=8.0, full=40.0))
    scene.wait_succeeded(1)
    scene.postgres.stop()
    scene.sleep(away_s)
    at = time.time()
    scene.postgres.start()
    scene.finish()
    scene.nobody_died()
    scene.note(away_s=away_s)
    expect_recovery(scene, [at])


@scenario("sqlite-locked", cost_s=25)
def sqlite_locked(scene: Scene) -> None:
    """Another process holds SQLite's write lock for 20 s (6 s in the short profile)."""
    scene.workers(1)
    locked_s = scene.pick(short=6.0, full=20.0)
    scene.submit(scene.jobs(short=150, full=1_500), over_s=locked_s)
    scene.wait_succeeded(1)
    argv = [sys.executable, "-c", _LOCK, str(scene.folder / "alexq.db"), str(locked_s)]
    log = scene.folder / "lock.log"
    holder = scene.processes.start(argv, log=log)
    scene.wait_for(lambda: "locked" in log.read_text(), 40.0, "the lock is held")
    scene.wait_for(lambda: holder.poll() is not None, locked_s + 40.0, "the lock is let go")
    at = time.time()
    scene.finish()
    scene.nobody_died()
    scene.promise(holder.returncode == 0, "the lock was held")
    expect_recovery(scene, [at], "lock let go → next job succeeds")
