"""How fast one producer on one core hands images in: stored, hashed, committed, published.

    python -m benchmarks.producing [--rounds 7] [--databases sqlite postgresql] [--save]

The producer is a process of its own, pinned to one core; broker and database run on the others. Submissions
are 1,000 distinct JPEGs of 57 kB on average, in memory: crops that differ by a few bytes after the picture's
end, so that each is stored. Nobody works the jobs off. Rounds with a stopwatch in the producer alternate
with the rounds that count; its steps are timed exclusively, one never within another. Singles are one image
a submission, from 32 threads of the same process.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from sqlalchemy.engine import Connection

import alexq_producer.acceptance
from alexq.stack.environment import environment
from alexq_producer import Producer
from alexq_schema.db import accept
from alexq_schema.images import files
from alexq_schema.settings import Settings
from benchmarks.chaos.processes import tree
from benchmarks.conditions import conditions
from benchmarks.images import jpegs
from benchmarks.scale.services import DATABASES, Services, Stage, stage

RESULT = Path(__file__).parent / "results" / "producing.json"
DISTINCT = 256
BULK = 1_000
SINGLES = 1_000
THREADS = 32

STEPS: Sequence[tuple[str, Any, str]] = (
    ("hash", hashlib, "sha256"),
    ("look up", files.FileStaging, "_is_stored"),
    ("write", files.FileStaging, "_write"),
    ("rename", files.FileStaging, "move"),
    ("sync", files, "_sync"),
    ("insert", accept, "add"),
    ("commit", Connection, "_commit_impl"),
    ("publish", alexq_producer.acceptance, "publish"),
)
"""What the stopwatch tells apart: name, owner, and the function that is the step."""


class Stopwatch:
    """Exclusive seconds of each step: a step within another stops the outer one's time."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._inner = threading.local()

    def around(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return ``function``, timed."""

        @functools.wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            outer, self._inner.seconds = getattr(self._inner, "seconds", 0.0), 0.0
            started = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                took = time.perf_counter() - started
                self.seconds[name] += took - self._inner.seconds
                self._inner.seconds = outer + took

        return timed

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Time every step while the context lasts."""
        originals = [(owner, attribute, getattr(owner, attribute)) for _, owner, attribute in STEPS]
        for name, owner, attribute in STEPS:
            setattr(owner, attribute, self.around(name, getattr(owner, attribute)))
        try:
            yield
        finally:
            for owner, attribute, original in originals:
                setattr(owner, attribute, original)


class Pictures:
    """Endless distinct JPEGs."""

    def __init__(self) -> None:
        self._jpegs = jpegs(DISTINCT)
        self._count = 0

    def take(self, count: int) -> list[bytes]:
        """Return ``count`` that were never taken before."""
        numbers = range(self._count, self._count + count)
        self._count += count
        return [self._jpegs[number % DISTINCT] + number.to_bytes(8) for number in numbers]


def produce(rounds: int) -> Iterator[dict[str, Any]]:
    """Run in the pinned process: yield what each round took."""
    pictures = Pictures()
    with Producer(Settings.connected()) as producer, ThreadPoolExecutor(THREADS) as threads:

        def bulk() -> int:
            return len(producer.submit(batch))

        def singles() -> int:
            return sum(map(len, threads.map(producer.submit, batch)))

        for number in range(rounds + 1):
            for kind, count, submit in (("bulk", BULK, bulk), ("singles", SINGLES, singles)):
                for is_watched in (False, True):
                    batch = pictures.take(count)
                    watch = Stopwatch()
                    cpu_s, started = time.process_time(), time.perf_counter()
                    if is_watched:
                        with watch.installed():
                            done = submit()
                    else:
                        done = submit()
                    wall_s = time.perf_counter() - started
                    assert done == count
                    if number:  # the first warms up
                        yield {
                            "kind": kind,
                            "images": count,
                            "wall_s": wall_s,
                            "cpu_s": time.process_time() - cpu_s,
                            "steps_s": dict(watch.seconds),
                        }


def main() -> None:
    """Measure, print a table, write the result file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--databases", nargs="+", default=list(DATABASES), choices=DATABASES)
    parser.add_argument("--save", action="store_true", help=f"write {RESULT.name}")
    parser.add_argument("--as-producer", type=int, metavar="CORE", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.as_producer is not None:
        os.sched_setaffinity(0, {arguments.as_producer})
        for told in produce(arguments.rounds):
            sys.stdout.write(json.dumps(told) + "\n")
        return
    results = []
    with stage() as where:
        for database in arguments.databases:
            rounds = measure(where, database, arguments.rounds)
            results += [
                summarise(database, [one for one in rounds if one["kind"] == kind])
                for kind in ("bulk", "singles")
            ]
    show(results)
    if arguments.save:
        save(results, arguments.rounds)


def measure(where: Stage, database: str, rounds: int) -> list[dict[str, Any]]:
    """Return the rounds of one producer on one database."""
    own, *others = sorted(os.sched_getaffinity(0), reverse=True)
    with where.services(database) as servers:
        pin(servers, others or [own])
        argv = [sys.executable, "-m", "benchmarks.producing", "--rounds", str(rounds)]
        log = servers.folder / "producer.log"
        process = where.processes.start(
            [*argv, "--as-producer", str(own)],
            log=log,
            env=environment(servers.settings),
            stdout=subprocess.PIPE,
        )
        assert process.stdout is not None
        told = [json.loads(line) for line in process.stdout]
        if process.wait(60) != 0:
            raise RuntimeError(f"the producer failed:\n{log.read_text()}")
    return told


def pin(servers: Services, cores: Sequence[int]) -> None:
    """Keep the servers, and what they start from now on, on these cores."""
    for pids in servers.pids.values():
        for pid in pids:
            for process in tree(pid):
                process.cpu_affinity(list(cores))


def summarise(database: str, rounds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return medians: rates of the plain rounds, steps of the watched ones."""
    plain = [one for one in rounds if not one["steps_s"]]
    watched = [one for one in rounds if one["steps_s"]]
    rates = [one["images"] / one["wall_s"] for one in plain]
    names = [name for name, *_ in STEPS]
    steps = {
        name: statistics.median(1e6 * one["steps_s"].get(name, 0.0) / one["images"] for one in watched)
        for name in names
    }
    return {
        "database": database,
        "kind": rounds[0]["kind"],
        "images_per_s": {"median": statistics.median(rates), "min": min(rates), "max": max(rates)},
        "cpu_us_per_image": statistics.median(1e6 * one["cpu_s"] / one["images"] for one in plain),
        "wall_us_per_image": statistics.median(1e6 * one["wall_s"] / one["images"] for one in watched),
        "steps_us_per_image": steps,
    }


def show(results: Sequence[dict[str, Any]]) -> None:
    """Print the rates, and where the time goes."""
    table = Table("", title="one producer on one core; µs an image")
    for result in results:
        table.add_column(f"{result['database']} {result['kind']}", justify="right")
    table.add_row("images/s", *(f"{result['images_per_s']['median']:,.0f}" for result in results))
    table.add_row(
        "  min–max",
        *("{min:,.0f}–{max:,.0f}".format(**result["images_per_s"]) for result in results),
    )
    table.add_row("its CPU", *(f"{result['cpu_us_per_image']:.0f}" for result in results))
    table.add_row("wall, watched", *(f"{result['wall_us_per_image']:.0f}" for result in results))
    for name, *_ in STEPS:
        table.add_row(f"  {name}", *(f"{result['steps_us_per_image'][name]:.1f}" for result in results))
    Console().print(table)
    Console().print("singles: steps are summed over threads that wait for one another.")


def save(results: Sequence[dict[str, Any]], rounds: int) -> None:
    """Write the result file."""
    record = {
        **conditions("celery", "sqlalchemy"),
        "rounds": rounds,
        "images_per_submission": BULK,
        "mean_image_bytes": round(statistics.mean(map(len, jpegs(DISTINCT)))),
        "threads": THREADS,
        "results": list(results),
    }
    RESULT.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
