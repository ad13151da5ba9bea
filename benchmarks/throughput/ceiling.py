"""The ceiling: decode threads and one forward at a time in one process; images in memory, no queue."""

from __future__ import annotations

import itertools
import multiprocessing
import queue
import threading
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path

from alexq_worker.inference.decode import Picture
from benchmarks.throughput.contender import Answers, Work
from benchmarks.throughput.model import Model

BATCHES = (16, 32, 64)
SEARCH_IMAGES = 384


class InOneProcess:
    """Decoders run ahead of the forward by two batches at most."""

    def __init__(self, work: Work, max_batch: int, decode_threads: int, torch_threads: int) -> None:
        self._max_batch = max_batch
        self._decode_threads = decode_threads
        self._model = Model(work.models_dir, work.precision, max_batch, torch_threads)

    def classify(self, images: Sequence[bytes]) -> Answers:
        """Return each image's best class."""
        todo = iter(enumerate(images))
        turn = threading.Lock()
        ready: queue.Queue[tuple[int, Picture]] = queue.Queue(2 * self._max_batch)

        def decode() -> None:
            while True:
                with turn:
                    number, image = next(todo, (-1, b""))
                if number < 0:
                    return
                ready.put((number, self._model.decode(image)))

        started = time.perf_counter()
        threads = [threading.Thread(target=decode) for _ in range(self._decode_threads)]
        for thread in threads:
            thread.start()
        answers = Answers([-1] * len(images), [0.0] * len(images))
        done = 0
        while done < len(images):
            batch = [ready.get()]
            while len(batch) < min(self._max_batch, len(images) - done):
                batch.append(ready.get())
            best = self._model.best([picture for _, picture in batch])
            now_s = time.perf_counter() - started
            for (number, _), index in zip(batch, best, strict=True):
                answers.best[number], answers.latency_s[number] = index, now_s
            done += len(batch)
        return answers


class Ceiling:
    """Runs the best settings, found by search, in a process of its own so that its memory can be told."""

    name = "in one process (ceiling)"

    def __init__(self) -> None:
        self.settings: dict[str, int] = {}
        self._process: multiprocessing.process.BaseProcess | None = None
        self._pipe: Connection | None = None

    def start(self, work: Work, folder: Path) -> None:
        """Search for the best settings in a process, unless they are known, then load them in another."""
        if not self.settings:
            self.settings = self._search(work)
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, work, self.settings), daemon=True)
        self._process.start()
        self.classify(work.images[: self.settings["max_batch"]])

    def _search(self, work: Work) -> dict[str, int]:
        threads = sorted({1, work.cores})
        candidates = [
            {"max_batch": batch, "decode_threads": decode, "torch_threads": forward}
            for batch, decode, forward in itertools.product(BATCHES, threads, threads)
        ]
        with multiprocessing.get_context("spawn").Pool(1) as pool:  # its memory goes with it
            rates = pool.apply(_rates, (work, candidates))
        return max(zip(rates, candidates, strict=True), key=lambda pair: pair[0])[1]

    def classify(self, images: Sequence[bytes]) -> Answers:
        """Return each image's best class."""
        assert self._pipe is not None
        self._pipe.send(list(images))
        answers: Answers = self._pipe.recv()
        return answers

    def pids(self) -> Sequence[int]:
        """Return its process."""
        return [self._process.pid] if self._process is not None and self._process.pid else []

    def stop(self) -> None:
        """End it."""
        if self._process is not None:
            self._process.terminate()
            self._process.join(10)


def _rates(work: Work, candidates: list[dict[str, int]]) -> list[float]:
    """Return images/s of each candidate: the better of two rounds, in turn."""
    images = [work.images[number % len(work.images)] for number in range(SEARCH_IMAGES)]
    best = [0.0] * len(candidates)
    for _ in range(2):
        for place, settings in enumerate(candidates):
            one = InOneProcess(work, **settings)
            started = time.perf_counter()
            one.classify(images)
            best[place] = max(best[place], len(images) / (time.perf_counter() - started))
    return best


def _serve(pipe: Connection, work: Work, settings: dict[str, int]) -> None:
    one = InOneProcess(work, **settings)
    while True:
        pipe.send(one.classify(pipe.recv()))
