"""A process that submits images through the SDK and writes down, on disk, what was accepted.

    python -m benchmarks.chaos.submitter PLAN.json

Its log has one JSON line a fact, synced before the next call: ``try`` (a call begins, with its images),
``job`` (accepted: job id, image, submission), ``refused`` (the call raised: the caller submits again).
A call that raised or never returned may still have been committed: the checker tells those by ``try``.
Started again after it was killed, it goes on after the last call in its log.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any, TextIO

SIZES = (1, 1, 1, 1, 7, 7, 7, 64, 64, 500)
AGAIN_AFTER_S = 0.2


def plan(rng: random.Random, jobs: int, images: int, sizes: tuple[int, ...] = SIZES) -> list[list[int]]:
    """Return the image numbers of every submission: ``jobs`` altogether, none larger than half of it."""
    allowed = [size for size in sizes if size <= max(1, jobs // 2)]
    submissions: list[list[int]] = []
    left = jobs
    while left:
        size = min(left, rng.choice(allowed))
        submissions.append([rng.randrange(images) for _ in range(size)])
        left -= size
    return submissions


class Log:
    """Appends lines and syncs them."""

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def write(self, *records: dict[str, Any]) -> None:
        """Append; when this returns they are on disk."""
        self._file.write("".join(json.dumps(record) + "\n" for record in records))
        self._file.flush()
        os.fsync(self._file.fileno())


def main() -> None:
    """Submit everything in the plan."""
    from alexq_producer import Producer
    from alexq_schema.errors import AlexqError

    told = json.loads(Path(sys.argv[1]).read_text())
    submissions: list[list[int]] = told["submissions"]
    numbers = {number for images in submissions for number in images}
    data = {number: (Path(told["folder"]) / f"{number}.jpg").read_bytes() for number in numbers}
    path = Path(told["log"])
    earlier = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    calls = sum("try" in record for record in earlier)
    first = 1 + max((record["submission_number"] for record in earlier if "try" in record), default=-1)
    if told["die_before_publish"] and not earlier:
        _die_before_publish(told["die_before_publish"])
    done = sum(map(len, submissions[:first]))
    with path.open("a") as file, Producer() as producer:
        log = Log(file)
        started = time.monotonic()
        begun = done
        for number, images in enumerate(submissions[first:], first):
            is_accepted = False
            while not is_accepted:
                log.write({"try": calls, "submission_number": number, "images": images, "at": time.time()})
                began = time.monotonic()
                try:
                    submission = producer.submit([data[image] for image in images])
                except AlexqError as error:
                    took_s = time.monotonic() - began
                    log.write({"refused": calls, "code": error.code, "took_s": took_s, "at": time.time()})
                    time.sleep(AGAIN_AFTER_S)
                else:
                    is_accepted = True
                    fact = {"call": calls, "submission": str(submission.id), "at": time.time()}
                    fact["took_s"] = time.monotonic() - began
                    ids = zip(submission.job_ids, images, strict=True)
                    log.write(*({"job": str(job_id), "image": image, **fact} for job_id, image in ids))
                calls += 1
            done += len(images)
            if told["jobs_per_s"]:
                time.sleep(max(0.0, started + (done - begun) / told["jobs_per_s"] - time.monotonic()))
        log.write({"done": True, "at": time.time()})


def _die_before_publish(after: int) -> None:
    """Kill this process in the ``after``-th submission, between its COMMIT and its messages."""
    from alexq_producer import acceptance

    passes = 0

    def publish(*_: Any, **__: Any) -> None:
        nonlocal passes
        passes += 1
        if passes == after:
            os.kill(os.getpid(), signal.SIGKILL)
        original(*_, **__)

    original = acceptance.publish  # type: ignore[attr-defined]
    acceptance.publish = publish  # type: ignore[attr-defined]


if __name__ == "__main__":
    main()
