"""Processes that kill themselves in the narrowest windows of the protocol."""

from __future__ import annotations

import signal
from typing import Any

from benchmarks.chaos.fleet import Member
from benchmarks.chaos.scenarios.registry import scenario
from benchmarks.chaos.scene import Scene

WINDOWS = ("woken", "taken", "claimed", "decoded", "forwarded", "in-transaction", "committed")
"""Of :mod:`benchmarks.chaos.faulty_worker`; ``sweeping`` comes after all of them."""
DIES_WITHIN_S = 120.0
FEED = 40
"""Jobs more for those who have not come to their failpoint when everything is done."""
SMALL: dict[str, Any] = {"max_batch": 8, "heartbeat_s": 0.5, "silent_after_s": 3.0}
"""Quick to start and to be noticed."""


def faulty(scene: Scene, failpoint: str, after: int) -> Member:
    """Start a worker that dies at the ``after``-th pass, for good."""
    program = ("-m", "benchmarks.chaos.faulty_worker", "--failpoint", failpoint, "--after", str(after))
    return scene.fleet.add(1, program, restarts=False)[0]


def expect_deaths(scene: Scene, doomed: dict[str, Member]) -> None:
    """Wait until each of these has reached its failpoint, with new jobs whenever none is left.

    Their submitter dies before it publishes, so that there is something to claim and something to sweep.
    """

    def alive() -> list[str]:
        is_busy = scene.is_busy()  # starts submitters that died again
        left = [name for name, member in doomed.items() if member.process.poll() is None]
        if left and not is_busy:
            scene.submit(FEED, die_before_publish=1)
        return left

    try:
        scene.wait_for(lambda: not alive(), DIES_WITHIN_S, "every failpoint is reached")
    except TimeoutError as error:
        raise TimeoutError(f"not reached within {DIES_WITHIN_S:.0f} s: {', '.join(alive())}") from error
    codes = {name: member.process.returncode for name, member in doomed.items()}
    scene.promise(set(codes.values()) == {-signal.SIGKILL}, f"each dies of SIGKILL: {codes}")


@scenario("failpoints", cost_s=90, database="postgresql", **SMALL)
def failpoints(scene: Scene) -> None:
    """Seven windows in the worker, one in the sweeper, one in the producer; each is hit."""
    rounds = scene.pick(short=1, full=50)
    hits = dict.fromkeys((*WINDOWS, "sweeping", "published"), 0)
    for _ in range(rounds):
        doomed = {name: faulty(scene, name, scene.rng.randint(1, 2)) for name in WINDOWS}
        # The last to live: what the others held needs messages again, and sending them kills it.
        sweeper = faulty(scene, "sweeping", 1)
        scene.fleet.wait_ready([*doomed.values(), sweeper])
        scene.submit(scene.jobs(short=120, full=200), die_before_publish=scene.rng.randint(1, 4))
        expect_deaths(scene, {**doomed, "sweeping": sweeper})
        scene.wait_submitted()
        for name in (*WINDOWS, "sweeping"):
            hits[name] += 1
        healer = scene.workers(1)[0]
        scene.finish()
        scene.fleet.retire(healer)
    hits["published"] = sum(submitter.deaths for submitter in scene.submitters)
    scene.note(hits=hits)
    scene.promise(min(hits.values()) >= rounds, f"every window is hit {rounds} times, not {hits}")


@scenario("sqlite-killed-in-transaction", cost_s=30, **SMALL)
def sqlite_killed_in_transaction(scene: Scene) -> None:
    """A worker dies with SQLite's write transaction open: it is rolled back and the lock is free."""
    rounds = scene.pick(short=1, full=20)
    for _ in range(rounds):
        doomed = faulty(scene, "in-transaction", 1 + scene.rng.randrange(3))
        scene.fleet.wait_ready([doomed])
        scene.submit(scene.jobs(short=100, full=150))
        expect_deaths(scene, {"in-transaction": doomed})
        healer = scene.workers(1)[0]
        scene.finish()
        scene.fleet.retire(healer)
    scene.note(hits=rounds)
