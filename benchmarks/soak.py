"""Whether a worker's memory stays flat over many jobs.

    python -m benchmarks.soak --jobs 100000 [--precision fp32] [--save]

A real worker classifies 256 distinct JPEGs again and again, 1,000 a submission, two submissions under way.
Its memory is sampled every second: PSS, which shares out what other processes map too, and RSS, which
counts it in full. Growth is the last samples' median PSS against that of the samples after the
10 % mark. The peak is the kernel's high-water mark of RSS, from the start of the process on: loading the
model counts.

Exits 1 when it grew by 3 % or more, when the peak is above the model's size and 600 MB, or when a job did not
succeed.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped,unused-ignore]
from rich.console import Console

from alexq_producer import Producer, Submission
from alexq_schema.job import JobState
from alexq_schema.models import ModelStore
from alexq_worker.inference.versions import create_untrained
from benchmarks.conditions import conditions
from benchmarks.images import jpegs
from benchmarks.scale.services import DATABASES, RealWorker, stage

RESULT = Path(__file__).parent / "results" / "soak.json"
DISTINCT = 256
SUBMISSION = 1_000
UNDER_WAY = 2
SAMPLE_S = 1.0
SETTLED = 0.1
"""Share of the jobs after which memory must not grow."""
COMPARED = 0.05
"""Share of the samples that is compared at either end, at least five."""
MAX_GROWTH = 0.03
MAX_ABOVE_MODEL_BYTES = 600e6
SUBMISSION_S = 1_800.0
SAVED_SAMPLES = 500


@dataclass(frozen=True)
class Sample:
    """The worker's memory at one time."""

    at_s: float
    jobs: int
    """Ended by then."""
    pss: int
    rss: int


@dataclass
class Watch:
    """Samples one process's memory on a thread of its own."""

    pid: int
    jobs: int = 0
    samples: list[Sample] = field(default_factory=list)
    _done: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        """Sample until :meth:`stop`."""
        process = psutil.Process(self.pid)
        started = time.monotonic()
        while not self._done.wait(SAMPLE_S):
            memory = process.memory_full_info()
            self.samples.append(Sample(time.monotonic() - started, self.jobs, memory.pss, memory.rss))

    def stop(self) -> None:
        """End the sampling."""
        self._done.set()

    def peak_bytes(self) -> int:
        """Return the high-water mark of RSS since the process began."""
        told = Path(f"/proc/{self.pid}/status").read_text()
        found = re.search(r"VmHWM:\s+(\d+) kB", told)
        assert found is not None
        return 1024 * int(found[1])


def main() -> int:
    """Run, print what came out, write the result file; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--jobs", type=int, default=100_000)
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16"])
    parser.add_argument("--database", default="sqlite", choices=DATABASES)
    parser.add_argument("--save", action="store_true", help=f"write {RESULT.name}")
    arguments = parser.parse_args()
    with stage() as where:
        store = ModelStore(where.folder / "models")
        version = create_untrained(store)
        store.activate(version.info.ref)
        model_bytes = version.weights_path.stat().st_size // (2 if arguments.precision == "bf16" else 1)
        overrides = {"models_dir": store.models_dir, "precision": arguments.precision}
        with where.services(arguments.database, **overrides) as servers:
            worker = RealWorker(servers)
            worker.wait_ready()
            watch = Watch(worker.pid)
            watcher = threading.Thread(target=watch.run, name="memory", daemon=True)
            watcher.start()
            started = time.perf_counter()
            with Producer(servers.settings) as producer:
                failed = soak(producer, watch, arguments.jobs)
            took_s = time.perf_counter() - started
            watch.stop()
            watcher.join()
            result = judge(watch, model_bytes, failed, took_s)
            worker.stop()
    show(result)
    if arguments.save:
        save(result, watch.samples, arguments)
    return 0 if result["is_kept"] else 1


def soak(producer: Producer, watch: Watch, jobs: int) -> int:
    """Submit and wait until ``jobs`` have ended; return how many did not succeed."""
    distinct = jpegs(DISTINCT)
    under_way: deque[Submission] = deque()
    submitted = failed = 0
    while submitted < jobs or under_way:
        while submitted < jobs and len(under_way) < UNDER_WAY:
            count = min(SUBMISSION, jobs - submitted)
            batch = [distinct[number % DISTINCT] for number in range(submitted, submitted + count)]
            under_way.append(producer.submit(batch))
            submitted += count
        for job in under_way.popleft().results(SUBMISSION_S):
            failed += job.state is not JobState.SUCCEEDED
            watch.jobs += 1
    return failed


def judge(watch: Watch, model_bytes: int, failed: int, took_s: float) -> dict[str, Any]:
    """Return growth and peak, and whether both are within what is allowed."""
    settled = [sample for sample in watch.samples if sample.jobs >= SETTLED * watch.jobs]
    count = min(len(settled), max(5, round(COMPARED * len(settled))))
    first, last = (statistics.median(s.pss for s in part) for part in (settled[:count], settled[-count:]))
    growth = last / first - 1
    above_bytes = watch.peak_bytes() - model_bytes
    return {
        "jobs": watch.jobs,
        "failed": failed,
        "jobs_per_s": round(watch.jobs / took_s, 1),
        "growth": round(growth, 4),
        "pss_at_10_percent_bytes": round(first),
        "pss_at_end_bytes": round(last),
        "peak_pss_bytes": max(sample.pss for sample in watch.samples),
        "peak_rss_bytes": watch.peak_bytes(),
        "model_bytes": model_bytes,
        "peak_above_model_bytes": above_bytes,
        "is_kept": growth < MAX_GROWTH and above_bytes <= MAX_ABOVE_MODEL_BYTES and failed == 0,
    }


def show(result: dict[str, Any]) -> None:
    """Print what came out."""
    told = {name: f"{value / 1e6:,.0f} MB" for name, value in result.items() if name.endswith("_bytes")}
    console = Console(highlight=False)
    console.print(f"{result['jobs']:,} jobs, {result['failed']} failed, {result['jobs_per_s']}/s")
    console.print(
        f"memory grew by {100 * result['growth']:.2f} % from the 10 % mark to the end "
        f"({told['pss_at_10_percent_bytes']} to {told['pss_at_end_bytes']} PSS); allowed: less than "
        f"{100 * MAX_GROWTH:g} %"
    )
    console.print(
        f"peak {told['peak_rss_bytes']} RSS ({told['peak_pss_bytes']} PSS while working): "
        f"{told['peak_above_model_bytes']} above the model's {told['model_bytes']}; allowed: "
        f"{MAX_ABOVE_MODEL_BYTES / 1e6:,.0f} MB"
    )
    console.print("kept" if result["is_kept"] else "NOT KEPT")


def save(result: dict[str, Any], samples: Sequence[Sample], arguments: argparse.Namespace) -> None:
    """Write the result file, with evenly spaced samples."""
    thinned = samples[:: max(1, len(samples) // SAVED_SAMPLES)]
    record = {
        **conditions("torch", "celery", "sqlalchemy"),
        "precision": arguments.precision,
        "database": arguments.database,
        **result,
        "samples": {
            "columns": ["at_s", "jobs", "pss_bytes", "rss_bytes"],
            "rows": [[round(one.at_s, 1), one.jobs, one.pss, one.rss] for one in thinned],
        },
    }
    RESULT.write_text(json.dumps(record) + "\n")


if __name__ == "__main__":
    sys.exit(main())
