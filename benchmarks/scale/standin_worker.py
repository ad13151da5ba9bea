"""Workers whose device is a pause: everything but decode, images and model is the real worker.

    python -m benchmarks.scale.standin_worker --workers 4 --device-ms 2 --gate FILE

Imports once, then forks the workers; each runs the worker's own ``main``, configured by ``ALEXQ_``
variables, with engine, decoder, model store and image store replaced from outside. A forked worker
writes ``FILE.<pid>`` when it is about to connect, and waits until ``FILE`` is there: so the backlog can be
made first, and all begin together. SIGTERM stops all in good order.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from alexq_schema.job import ModelRef
from alexq_schema.model_info import ModelInfo
from alexq_schema.models import ModelVersion

CLASSES = 1_000
TOP = 5
GATE_POLL_S = 0.01

_NO_HASH = "0" * 64
_INFO = ModelInfo(
    name="standin",
    version="pause",
    architecture="alexnet",
    classes=CLASSES,
    weights_sha256=_NO_HASH,
    labels_sha256=_NO_HASH,
    trained=False,
    source="a pause of fixed length",
)


@dataclass(frozen=True)
class StandinTopK:
    """The same five classes for each image."""

    indices: NDArray[np.int64]
    probabilities: NDArray[np.float32]


class Launched:
    """A batch on its way through the pause."""

    def __init__(self, done_at: float, top: StandinTopK) -> None:
        self._done_at = done_at
        self._top = top

    def wait_copied(self) -> None:
        """Return: there is nothing to copy."""

    def result(self) -> StandinTopK:
        """Return the classes when the pause is over."""
        time.sleep(max(0.0, self._done_at - time.monotonic()))
        return self._top


class StandinEngine:
    """Takes a fixed time for a batch of any size, one batch after the other, and no CPU."""

    device_s = 0.0
    gate: Path | None = None

    def __init__(self, max_batch: int) -> None:
        self.labels = [f"class {number}" for number in range(CLASSES)]
        self.precision = "fp32"
        self.model_ref = ModelRef(
            name=_INFO.name, version=_INFO.version, precision=self.precision, trained=_INFO.trained
        )
        self.device_name = "a pause"
        self.max_batch = self.batch_limit = max_batch
        self.is_graphed = False
        self._free_at = 0.0
        self._top = StandinTopK(
            np.tile(np.arange(TOP, dtype=np.int64), (max_batch, 1)),
            np.tile(np.array([0.5, 0.2, 0.1, 0.05, 0.02], dtype=np.float32), (max_batch, 1)),
        )

    def device_memory(self) -> dict[str, int]:
        """Return nothing: a pause has no memory."""
        return {}

    @classmethod
    def load(cls, version: ModelVersion, *, max_batch: int, **_: Any) -> Self:
        """Return one for batches of ``max_batch``."""
        return cls(max_batch)

    def warm_up(self) -> None:
        """Say that this process is about to connect, and wait for the gate."""
        if self.gate is not None:
            self.gate.with_name(f"{self.gate.name}.{os.getpid()}").touch()
            while not self.gate.exists():
                time.sleep(GATE_POLL_S)

    def new_batch(self) -> NDArray[np.uint8]:
        """Return uint8[max_batch, 1, 1, 3]."""
        return np.zeros((self.max_batch, 1, 1, 3), dtype=np.uint8)

    def lower_limit(self) -> None:
        """Halve ``batch_limit``; nobody asks for it."""
        self.batch_limit = max(1, self.batch_limit // 2)

    def check(self) -> None:
        """Return: a pause does not break."""

    def close(self) -> None:
        """Return: a pause holds nothing."""

    def launch(self, images: NDArray[np.uint8]) -> Launched:
        """Begin the pause of one batch; it begins when the one before is over."""
        size = len(images)
        self._free_at = max(time.monotonic(), self._free_at) + self.device_s
        return Launched(self._free_at, StandinTopK(self._top.indices[:size], self._top.probabilities[:size]))

    def classify(self, images: NDArray[np.uint8]) -> StandinTopK:
        """Pause, and return the same five classes for each image."""
        return self.launch(images).result()


class StandinPicture:
    """A picture that needs no copying."""

    def write_to(self, out: NDArray[np.uint8]) -> None:
        """Leave the slot as it is."""


class StandinDecoder:
    """Gives the same picture for all bytes."""

    def __init__(self, *_: Any) -> None:
        self._picture = StandinPicture()

    def decode(self, data: bytes) -> StandinPicture:
        """Return the picture."""
        return self._picture


class StandinModelStore:
    """Knows the stand-in model only; nothing on disk."""

    def __init__(self, models_dir: Path) -> None:
        self._version = ModelVersion(models_dir, _INFO)

    def resolve(self, ref: str = "") -> ModelVersion:
        """Return it."""
        return self._version

    def active_ref(self) -> str:
        """Return its name."""
        return _INFO.ref

    def active_stamp(self) -> None:
        """Return nothing: it is never activated again."""

    def canary(self) -> None:
        """Return nothing: nothing is tried."""


class StandinStaging:
    """Hashes images and forgets them."""

    def add(self, data: bytes) -> str:
        """Return the key."""
        return hashlib.sha256(data).hexdigest()

    def publish(self) -> None:
        """Return: there is nothing to keep."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return


class StandinImages:
    """An image store that has every image: the same bytes."""

    is_remote = False

    def __init__(self, _url: str) -> None:
        self._data = bytes(64)

    def staging(self) -> StandinStaging:
        """Return a staging that keeps nothing."""
        return StandinStaging()

    def publish(self, stagings: Sequence[StandinStaging]) -> None:
        """Return: there is nothing to keep."""

    def get(self, key: str) -> bytes:
        """Return the bytes."""
        return self._data

    def discard_unneeded(self, part: int, needed: Callable[[Sequence[str]], set[str]]) -> int:
        """Delete nothing."""
        return 0


def install(device_s: float, gate: Path | None) -> None:
    """Replace the worker's engine, decoder and stores, as its composition root finds them."""
    from alexq_worker import app, serving

    StandinEngine.device_s = device_s
    StandinEngine.gate = gate
    for module, name, standin in (
        (serving, "Engine", StandinEngine),
        (serving, "Decoder", StandinDecoder),
        (serving, "ModelStore", StandinModelStore),
        (app, "open_image_store", StandinImages),
    ):
        assert name in vars(module), f"the worker has no {name} any more: this stand-in is out of date"
        setattr(module, name, standin)


def work() -> int:
    """Run one worker to its end."""
    from alexq_worker.app import main as worker_main

    return worker_main()


def fork(count: int) -> list[int]:
    """Return the pids of ``count`` workers; does not return in a worker."""
    pids = []
    for _ in range(count):
        if (pid := os.fork()) == 0:
            code = 1
            try:
                code = work()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        pids.append(pid)
    return pids


def main() -> int:
    """Fork the workers and wait for their end; return the worst exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--device-ms", type=float, default=1.0, help="time of a batch of any size")
    parser.add_argument("--gate", type=Path, help="wait for this file")
    arguments = parser.parse_args()
    install(arguments.device_ms / 1e3, arguments.gate)
    pids = fork(arguments.workers)

    def stop_all(*_: Any) -> None:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)

    signal.signal(signal.SIGTERM, stop_all)
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
    return max(map(abs, codes))


if __name__ == "__main__":
    sys.exit(main())
