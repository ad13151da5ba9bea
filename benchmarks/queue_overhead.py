"""What the queue costs: 1,000 images through alexq against the same decode and forward in one process.

    python -m benchmarks.queue_overhead [--images 1000] [--rounds 5] [--precision fp32 bf16]

Both sides decode the same JPEGs with the same decoder and threads, and classify them with the same
weights, precision and largest batch. In one process they come from memory and there is no queue.
Through alexq they are stored, hashed, inserted into SQLite, published to Redis, claimed, decoded,
classified, committed and read back, with the embedded stack (dashboard included) on the same cores.
Rounds alternate; medians are compared as a ratio. A round whose answers differ is an error.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from alexq.stack.environment import environment
from alexq_producer import Producer
from alexq_schema.errors import StackNotRunningError
from alexq_schema.job import JobState
from alexq_schema.models import ModelStore
from alexq_schema.settings import Settings
from alexq_worker.inference.decode import Decoder, Picture
from alexq_worker.inference.engine import Engine
from alexq_worker.inference.versions import create_untrained
from benchmarks.images import jpegs

RESULT = Path(__file__).parent / "results" / "queue_overhead.json"
DISTINCT_IMAGES = 256
START_S = 120.0


class InOneProcess:
    """Decode threads and one forward at a time, a batch of lookahead; no queue, no database."""

    def __init__(self, settings: Settings) -> None:
        version = ModelStore(settings.models_dir).resolve()
        self._max_batch = settings.max_batch
        self._decoder = Decoder(version.info.preprocessing, settings.max_image_pixels)
        self._pool = ThreadPoolExecutor(settings.decode_threads)
        self._engine = Engine.load(
            version, device="cpu", precision=settings.precision, max_batch=settings.max_batch
        )
        self._engine.warm_up()
        self._buffer = self._engine.new_batch()

    def classify(self, images: Sequence[bytes]) -> list[int]:
        """Return each image's best class."""
        best: list[int] = []
        coming: list[Future[Picture]] = []
        ahead = 2 * self._max_batch
        for start in range(0, len(images), self._max_batch):
            while len(coming) < min(len(images), start + ahead):
                coming.append(self._pool.submit(self._decoder.decode, images[len(coming)]))
            size = min(self._max_batch, len(images) - start)
            for slot in range(size):
                coming[start + slot].result().write_to(self._buffer[slot])
            best += self._engine.classify(self._buffer[:size]).indices[:, 0].tolist()
        return best

    def close(self) -> None:
        """End the decode threads."""
        self._pool.shutdown()


def through_alexq(producer: Producer, images: Sequence[bytes]) -> list[int]:
    """Return each image's best class, by one submission."""
    jobs = producer.submit(images).wait(timeout_s=600)
    assert all(job.state is JobState.SUCCEEDED for job in jobs)
    return [job.predictions[0].index for job in jobs]


@contextmanager
def stack(data_dir: Path, **overrides: Any) -> Iterator[Settings]:
    """Run ``alexq up`` in ``data_dir``; yield the settings that reach it."""
    settings = Settings.load(data_dir=data_dir, monitor_port=0, **overrides)
    log = (data_dir / "up.log").open("wb")
    up = subprocess.Popen([sys.executable, "-m", "alexq", "up"], env=environment(settings), stderr=log)
    try:
        deadline = time.monotonic() + START_S
        while True:
            try:
                yield Settings.connected(data_dir=data_dir, **overrides)
                break
            except StackNotRunningError:
                assert up.poll() is None, (data_dir / "up.log").read_text()
                assert time.monotonic() < deadline, "the stack did not start"
                time.sleep(0.2)
    finally:
        up.terminate()
        up.wait(60)
        log.close()


def measure(precision: str, images: Sequence[bytes], rounds: int, models_dir: Path) -> dict[str, Any]:
    """Return both sides' images/s for one precision, measured in turn."""
    rates: dict[str, list[float]] = {"one process": [], "alexq": []}
    with (
        tempfile.TemporaryDirectory(prefix="alexq-bench-") as folder,
        stack(Path(folder), models_dir=models_dir, precision=precision) as settings,
        Producer(settings) as producer,
    ):
        alone = InOneProcess(settings)
        sides = {"one process": alone.classify, "alexq": lambda batch: through_alexq(producer, batch)}
        expected = alone.classify(images[:DISTINCT_IMAGES])
        assert through_alexq(producer, images[:DISTINCT_IMAGES]) == expected, "alexq gave other answers"
        wanted = [expected[number % DISTINCT_IMAGES] for number in range(len(images))]
        for _ in range(rounds):
            for name, classify in sides.items():
                started = time.perf_counter()
                answers = classify(images)
                rates[name].append(len(images) / (time.perf_counter() - started))
                same = np.mean([a == b for a, b in zip(answers, wanted, strict=True)])
                assert same > 0.99, f"{name} gave other answers"  # bf16 may differ with the batch
        alone.close()
    ratios = [a / b for a, b in zip(rates["alexq"], rates["one process"], strict=True)]
    return {
        "precision": precision,
        "images_per_s": {name: [round(rate, 1) for rate in values] for name, values in rates.items()},
        "ratio_median": round(statistics.median(ratios), 3),
        "ratio_min": round(min(ratios), 3),
        "ratio_max": round(max(ratios), 3),
    }


def main() -> None:
    """Measure, print a table, write the result file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--images", type=int, default=1_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--precision", nargs="+", default=["fp32", "bf16"], choices=["fp32", "bf16"])
    parser.add_argument("--save", action="store_true", help=f"write {RESULT.name}")
    arguments = parser.parse_args()
    distinct = jpegs(DISTINCT_IMAGES)
    images = [distinct[number % DISTINCT_IMAGES] for number in range(arguments.images)]
    with tempfile.TemporaryDirectory(prefix="alexq-bench-models-") as models:
        store = ModelStore(Path(models))
        store.activate(create_untrained(store).info.ref)
        results = [measure(p, images, arguments.rounds, store.models_dir) for p in arguments.precision]
    table = Table("precision", "one process, img/s", "alexq, img/s", "ratio (median)", "min–max")
    for result in results:
        rates = {name: statistics.median(values) for name, values in result["images_per_s"].items()}
        table.add_row(
            result["precision"],
            f"{rates['one process']:.0f}",
            f"{rates['alexq']:.0f}",
            f"{result['ratio_median']:.3f}",
            f"{result['ratio_min']:.3f}–{result['ratio_max']:.3f}",
        )
    Console().print(table)
    if arguments.save:
        record = {
            "machine": {
                "cores": len(os.sched_getaffinity(0)),
                "system": f"{platform.system()} {platform.machine()}",
            },
            "versions": {"python": platform.python_version(), "torch": torch.__version__},
            "images": arguments.images,
            "rounds": arguments.rounds,
            "mean_image_bytes": round(statistics.mean(map(len, distinct))),
            "results": results,
        }
        RESULT.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
