"""alexq itself: the embedded stack on this machine's cores, dashboard included."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from alexq.stack.environment import environment
from alexq_producer import Producer
from alexq_schema.errors import StackNotRunningError
from alexq_schema.job import Job, JobState
from alexq_schema.settings import Settings
from benchmarks.throughput.contender import Answers, Work, end_processes, start_process, wait_until
from benchmarks.unshared import require_nothing_shared

START_S = 120.0
RESULT_S = 600.0
PRODUCERS = 4
WAITING = 32
"""Images that one producer of single images has under way."""


class _Stack:
    """``alexq up`` in a folder of its own."""

    def __init__(self, **overrides: Any) -> None:
        self._overrides = {"gateway_port": 0, "monitor_port": 0, **overrides}
        self._up: subprocess.Popen[bytes] | None = None
        self._log = Path()

    def start(self, work: Work, folder: Path) -> Settings:
        """Start it and return the settings that reach it."""
        given = {
            **self._overrides,
            "data_dir": folder / "data",
            "models_dir": work.models_dir,
            "precision": work.precision,
        }
        self._log = log = folder / "up.log"
        self._up = start_process(
            [sys.executable, "-m", "alexq", "up"], log, environment(Settings.load(**given))
        )
        found: list[Settings] = []

        def is_up() -> bool:
            try:
                found.append(Settings.connected(**given))
            except StackNotRunningError:
                return False
            return True

        wait_until(is_up, START_S, "the stack runs", log)
        return found[0]

    def pids(self) -> list[int]:
        """Return the supervisor's."""
        return [self._up.pid] if self._up is not None else []

    def stop(self) -> None:
        """Stop it.

        Raises:
            RuntimeError: it has answered images without computing them.
        """
        if self._up is not None:
            end_processes([self._up], 60.0)
            self._up = None
            require_nothing_shared(self._log)


def best_class(job: Job) -> int:
    """Return the class of a finished job.

    Raises:
        RuntimeError: it has none; says which image and why.
    """
    if job.state is not JobState.SUCCEEDED:
        raise RuntimeError(f"{job.source}: {job.state}, {job.error}")
    return job.predictions[0].index


class OneSubmission:
    """All images in one call."""

    name = "alexq, one submission of all"

    def __init__(self, **overrides: Any) -> None:
        self._stack = _Stack(**overrides)
        self._producer: Producer | None = None

    def start(self, work: Work, folder: Path) -> None:
        """Start the stack and warm it up."""
        self._producer = Producer(self._stack.start(work, folder))
        self.classify(work.images)

    def classify(self, images: Sequence[bytes]) -> Answers:
        """Submit all images and collect the results as they finish."""
        assert self._producer is not None
        started = time.perf_counter()
        submission = self._producer.submit(images)
        place = {job_id: number for number, job_id in enumerate(submission.job_ids)}
        answers = Answers([-1] * len(images), [0.0] * len(images))
        for job in submission.results(RESULT_S):
            assert job.job_id is not None
            number = place[job.job_id]
            answers.best[number] = best_class(job)
            answers.latency_s[number] = time.perf_counter() - started
        return answers

    def pids(self) -> Sequence[int]:
        """Return the stack's supervisor."""
        return self._stack.pids()

    def stop(self) -> None:
        """Stop the stack."""
        if self._producer is not None:
            self._producer.close()
            self._producer = None
        self._stack.stop()


class SingleImages:
    """Every image a submission of its own, from four processes that each wait for up to 32 at a time."""

    name = "alexq, every image a submission"

    def __init__(self, **overrides: Any) -> None:
        self._stack = _Stack(**overrides)
        self._producers: list[subprocess.Popen[str]] = []
        self._number: dict[bytes, int] = {}

    def start(self, work: Work, folder: Path) -> None:
        """Start the stack and the producers, and warm them up."""
        settings = self._stack.start(work, folder)
        (folder / "jpegs").mkdir()
        for number, image in enumerate(work.images):
            (folder / "jpegs" / f"{number}.jpg").write_bytes(image)
        self._number = {image: number for number, image in enumerate(work.images)}
        argv = [sys.executable, "-m", "benchmarks.throughput.single_producer"]
        argv += [str(folder / "jpegs"), str(WAITING)]
        for _ in range(PRODUCERS):
            self._producers.append(
                subprocess.Popen(
                    argv,
                    env=environment(settings),
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                    start_new_session=True,
                )
            )
        self.classify(work.images)

    def classify(self, images: Sequence[bytes]) -> Answers:
        """Deal the images out to the producers."""
        numbers = [self._number[image] for image in images]
        for rank, producer in enumerate(self._producers):
            assert producer.stdin is not None
            producer.stdin.write(json.dumps(numbers[rank :: len(self._producers)]) + "\n")
            producer.stdin.flush()
        answers = Answers([-1] * len(images), [0.0] * len(images))
        for rank, producer in enumerate(self._producers):
            assert producer.stdout is not None
            told = json.loads(producer.stdout.readline() or '{"error": "a producer ended"}')
            if "error" in told:
                raise RuntimeError(told["error"])
            answers.best[rank :: len(self._producers)] = told["best"]
            answers.latency_s[rank :: len(self._producers)] = told["latency_s"]
        return answers

    def pids(self) -> Sequence[int]:
        """Return the stack's supervisor and the producers."""
        return [*self._stack.pids(), *(producer.pid for producer in self._producers)]

    def stop(self) -> None:
        """Stop producers and stack."""
        for producer in self._producers:
            producer.terminate()
            producer.wait(20)
        self._producers.clear()
        self._stack.stop()
