"""A service that submits every image by itself and waits for many at a time.

    python -m benchmarks.throughput.single_producer FOLDER WAITING

Reads a JSON list of image numbers a line on stdin, answers ``{"best", "latency_s"}`` or ``{"error"}``.
"""

from __future__ import annotations

import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from alexq_producer import Producer
from benchmarks.throughput.alexq_rows import RESULT_S, best_class


def main() -> None:
    """Serve until stdin ends."""
    folder, waiting = Path(sys.argv[1]), int(sys.argv[2])
    images = [(folder / f"{number}.jpg").read_bytes() for number in range(len(list(folder.iterdir())))]
    with Producer() as producer, ThreadPoolExecutor(waiting) as threads:

        def classify(number: int) -> tuple[int, float]:
            started = time.perf_counter()
            job = producer.classify(images[number], RESULT_S)
            return best_class(job), time.perf_counter() - started

        for line in sys.stdin:
            try:
                done = list(threads.map(classify, json.loads(line)))
                told = {"best": [best for best, _ in done], "latency_s": [s for _, s in done]}
            except Exception as error:  # noqa: BLE001 - told to the benchmark, which ends
                told = {"error": f"{type(error).__name__}: {error}"}
            print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main()
