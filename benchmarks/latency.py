"""How long one image takes: on an idle system, and beside a large submission.

    python -m benchmarks.latency [--images 200] [--precision fp32] [--database sqlite] [--save]

Idle: single ``Producer.classify`` calls one after another, with pauses, each beside the same image's
decode and forward in this process, with the same decoder, weights, precision and threads; the two take
turns. Every image is new, so that each is hashed, stored and synced. Where the time goes is told by the
row's times and by this process's clock.

Beside bulk: a submission of many runs, and single images are handed in meanwhile. A single's wait is the time
from its acceptance to the begin of its own forward (its row's times, commit included), in units of a full
batch's forward. The promise is two at the most.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from sqlalchemy import select

from alexq_producer import Producer
from alexq_schema.db.session import Database
from alexq_schema.db.tables import Job as JobRow
from alexq_schema.job import Job, JobState
from alexq_schema.models import ModelStore
from alexq_schema.settings import Settings
from alexq_worker.inference.versions import create_untrained
from benchmarks.conditions import conditions
from benchmarks.producing import Pictures
from benchmarks.scale.services import DATABASES, RealWorker, stage
from benchmarks.throughput.model import Model

RESULT = Path(__file__).parent / "results" / "latency.json"
PAUSE_S = (0.02, 0.08)
WARM_UP = 20
BULK = 2_000
SINGLE_EVERY_S = 0.3
ALLOWED_MS = {"p50": 8.0, "p99": 25.0}
"""What the queue may add to the time of one image in one process, when idle."""
ALLOWED_BATCHES = 2.0


@dataclass(frozen=True)
class Call:
    """One ``classify``: when it began and returned, by the system's clock, and its job."""

    began: float
    took_s: float
    job: Job

    @classmethod
    def of(cls, producer: Producer, image: bytes) -> Call:
        """Classify ``image``."""
        began, started = time.time(), time.perf_counter()
        job = producer.classify(image, timeout_s=120)
        took_s = time.perf_counter() - started
        assert job.state is JobState.SUCCEEDED, job
        return cls(began, took_s, job)

    def steps_s(self) -> dict[str, float]:
        """Return where the time went; the parts add up to the whole."""
        timings, job = self.job.timings, self.job
        assert job.created_at is not None
        assert job.finished_at is not None
        assert timings.waited_s is not None
        assert timings.total_s is not None
        decode_s, forward_s = timings.decode_s or 0.0, timings.forward_s or 0.0
        return {
            "store and insert": job.created_at.timestamp() - self.began,
            "publish, take, claim": timings.waited_s,
            "load and decode": decode_s,
            "forward": forward_s,
            "between threads, into the commit": timings.total_s - timings.waited_s - decode_s - forward_s,
            "commit, announce, read": self.began + self.took_s - job.finished_at.timestamp(),
        }


def main() -> None:
    """Measure, print the tables, write the result file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--images", type=int, default=200, help="single images on the idle system")
    parser.add_argument("--bulk", type=int, default=BULK, help="images of the large submission; 0: leave out")
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16"])
    parser.add_argument("--database", default="sqlite", choices=DATABASES)
    parser.add_argument("--save", action="store_true", help=f"write {RESULT.name}")
    arguments = parser.parse_args()
    with stage() as where:
        store = ModelStore(where.folder / "models")
        store.activate(create_untrained(store).info.ref)
        overrides = {"models_dir": store.models_dir, "precision": arguments.precision}
        with where.services(arguments.database, **overrides) as servers:
            worker = RealWorker(servers)
            worker.wait_ready()
            pictures = Pictures()
            with Producer(servers.settings) as producer:
                result = idle(producer, pictures, arguments.images)
                if arguments.bulk:
                    result["beside_bulk"] = beside_bulk(producer, pictures, arguments.bulk)
            worker.stop()
    show(result)
    if arguments.save:
        save(result, arguments)


def idle(producer: Producer, pictures: Pictures, count: int) -> dict[str, Any]:
    """Return the times of single images, in turn through alexq and in this process."""
    settings = producer.settings
    model = Model(settings.models_dir, settings.precision, 1, torch.get_num_threads())
    chance = random.Random(0)
    alone_s: list[float] = []
    calls: list[Call] = []
    for image in pictures.take(WARM_UP + count):
        time.sleep(chance.uniform(*PAUSE_S))
        started = time.perf_counter()
        model.best([model.decode(image)])
        alone_s.append(time.perf_counter() - started)
        time.sleep(chance.uniform(*PAUSE_S))
        calls.append(Call.of(producer, image))
    del alone_s[:WARM_UP], calls[:WARM_UP]
    alone, through = quantiles_ms(alone_s), quantiles_ms([call.took_s for call in calls])
    steps = [call.steps_s() for call in calls]
    return {
        "alone_ms": alone,
        "alexq_ms": through,
        "added_ms": {name: round(through[name] - alone[name], 2) for name in alone},
        "steps_ms": {name: quantiles_ms([step[name] for step in steps]) for name in steps[0]},
    }


def beside_bulk(producer: Producer, pictures: Pictures, count: int) -> dict[str, Any]:
    """Return how long singles waited while a submission of ``count`` ran."""
    started = time.perf_counter()
    submission = producer.submit(pictures.take(count))
    singles: list[Call] = []
    while sum(submission.counts().get(state, 0) for state in (JobState.QUEUED,)) > 0:
        singles.append(Call.of(producer, pictures.take(1)[0]))
        time.sleep(SINGLE_EVERY_S)
    assert all(job.state is JobState.SUCCEEDED for job in submission.wait(600))
    bulk_s = time.perf_counter() - started
    batch_s = full_batch_s(producer.settings)
    waits = [batches(call, batch_s) for call in singles]
    return {
        "images": count,
        "images_per_s": round(count / bulk_s, 1),
        "singles": len(singles),
        "batch_ms": round(1e3 * batch_s, 1),
        "wait_batches": {"p50": round(float(np.median(waits)), 2), "max": round(max(waits), 2)},
        "call_ms": quantiles_ms([call.took_s for call in singles]),
        "steps_ms": {
            name: quantiles_ms([call.steps_s()[name] for call in singles]) for name in singles[0].steps_s()
        },
    }


def batches(call: Call, batch_s: float) -> float:
    """Return a single's wait from its acceptance to its own forward, in full batches."""
    timings = call.job.timings
    assert timings.total_s is not None
    return (timings.total_s - (timings.forward_s or 0.0)) / batch_s


def full_batch_s(settings: Settings) -> float:
    """Return the median forward of the fullest batches."""
    database = Database(settings.database_url)
    with database.read() as connection:
        rows = connection.execute(
            select(JobRow.forward_s, JobRow.batch_size).where(JobRow.lane == "bulk")
        ).all()
    database.close()
    fullest = max(row.batch_size for row in rows)
    return float(np.median([row.forward_s for row in rows if row.batch_size == fullest]))


def quantiles_ms(seconds: Sequence[float]) -> dict[str, float]:
    """Return p50, p95 and p99 in milliseconds."""
    found = np.quantile(seconds, [0.5, 0.95, 0.99])
    return {
        name: round(1e3 * float(value), 2) for name, value in zip(("p50", "p95", "p99"), found, strict=True)
    }


def show(result: dict[str, Any]) -> None:
    """Print both tables."""
    table = Table("idle, ms", "p50", "p95", "p99")
    for name, times in (
        ("decode and forward in one process", result["alone_ms"]),
        ("Producer.classify", result["alexq_ms"]),
        ("difference", result["added_ms"]),
        *((f"  {name}", times) for name, times in result["steps_ms"].items()),
    ):
        table.add_row(name, *(f"{value:.1f}" for value in times.values()))
    console = Console()
    console.print(table)
    for name, allowed in ALLOWED_MS.items():
        added = result["added_ms"][name]
        console.print(
            f"{name} + {added} ms, allowed + {allowed:g}: {'kept' if added <= allowed else 'NOT KEPT'}"
        )
    if bulk := result.get("beside_bulk"):
        wait = bulk["wait_batches"]
        console.print(
            f"beside {bulk['images']} bulk images ({bulk['images_per_s']}/s): {bulk['singles']} singles "
            f"waited {wait['p50']} (p50), {wait['max']} (max) batches of {bulk['batch_ms']} ms; allowed "
            f"{ALLOWED_BATCHES:g}: {'kept' if wait['max'] <= ALLOWED_BATCHES else 'NOT KEPT'}"
        )
        for name, times in bulk["steps_ms"].items():
            console.print(f"  {name}: p50 {times['p50']} ms, p99 {times['p99']} ms")


def save(result: dict[str, Any], arguments: argparse.Namespace) -> None:
    """Write the result file."""
    record = {
        **conditions("torch", "celery", "sqlalchemy"),
        "images": arguments.images,
        "precision": arguments.precision,
        "database": arguments.database,
        **result,
    }
    RESULT.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
