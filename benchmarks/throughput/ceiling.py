"""The ceiling: decode threads and one forward at a time, in one process or several; no queue."""

from __future__ import annotations

import itertools
import multiprocessing
import queue
import threading
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path

from alexq_worker.inference.crops import Picture
from benchmarks.throughput.contender import Answers, Work
from benchmarks.throughput.model import Model

BATCHES = (16, 32, 64)
SEARCH_IMAGES = 384
SEARCH_ROUNDS = 2


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
    """Runs the best layout, found by search, in processes of its own so that their memory can be told."""

    name = "without a queue (ceiling)"

    def __init__(self) -> None:
        self.settings: dict[str, int] = {}
        self._servers: list[tuple[multiprocessing.process.BaseProcess, Connection]] = []

    def start(self, work: Work, folder: Path) -> None:
        """Search for the best layout, unless it is known, then load the model in its processes."""
        if not self.settings:
            self.settings = self._search(work)
        self._load(work, self.settings)

    def _load(self, work: Work, settings: dict[str, int]) -> None:
        context = multiprocessing.get_context("spawn")
        inside = {name: value for name, value in settings.items() if name != "processes"}
        for _ in range(settings["processes"]):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, work, inside), daemon=True)
            process.start()
            self._servers.append((process, ours))
        self.classify(work.images)

    def _search(self, work: Work) -> dict[str, int]:
        """Return the best of one process with some threads, and one process a core with one thread each."""
        threads = sorted({1, work.cores})
        alone = [
            {"max_batch": batch, "decode_threads": decode, "torch_threads": forward}
            for batch, decode, forward in itertools.product(BATCHES, threads, threads)
        ]
        with multiprocessing.get_context("spawn").Pool(1) as pool:  # its memory goes with it
            rates = pool.apply(_rates, (work, alone))
        layouts = [{**settings, "processes": 1} for settings in alone]
        for batch in BATCHES if work.cores > 1 else ():
            layout = {"max_batch": batch, "decode_threads": 1, "torch_threads": 1, "processes": work.cores}
            self._load(work, layout)
            rates.append(max(_rate(self, work) for _ in range(SEARCH_ROUNDS)))
            layouts.append(layout)
            self.stop()
        return max(zip(rates, layouts, strict=True), key=lambda pair: pair[0])[1]

    def classify(self, images: Sequence[bytes]) -> Answers:
        """Return each image's best class; the images are dealt out to the processes."""
        count = len(self._servers)
        for rank, (_, pipe) in enumerate(self._servers):
            pipe.send(list(images[rank::count]))
        answers = Answers([-1] * len(images), [0.0] * len(images))
        for rank, (_, pipe) in enumerate(self._servers):
            told: Answers = pipe.recv()
            answers.best[rank::count], answers.latency_s[rank::count] = told.best, told.latency_s
        return answers

    def pids(self) -> Sequence[int]:
        """Return its processes."""
        return [process.pid for process, _ in self._servers if process.pid]

    def stop(self) -> None:
        """End them."""
        for process, _ in self._servers:
            process.terminate()
            process.join(10)
        self._servers.clear()


def _rate(one: Ceiling | InOneProcess, work: Work) -> float:
    images = [work.images[number % len(work.images)] for number in range(SEARCH_IMAGES)]
    started = time.perf_counter()
    one.classify(images)
    return len(images) / (time.perf_counter() - started)


def _rates(work: Work, candidates: list[dict[str, int]]) -> list[float]:
    """Return images/s of each candidate: the best of some rounds, in turn."""
    best = [0.0] * len(candidates)
    for _ in range(SEARCH_ROUNDS):
        for place, settings in enumerate(candidates):
            best[place] = max(best[place], _rate(InOneProcess(work, **settings), work))
    return best


def _serve(pipe: Connection, work: Work, settings: dict[str, int]) -> None:
    one = InOneProcess(work, **settings)
    while True:
        pipe.send(one.classify(pipe.recv()))
