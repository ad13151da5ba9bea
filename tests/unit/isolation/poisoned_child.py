"""The isolation child with a stand-in for the model, so that it starts fast, and images that do harm.

``poisoned_child.py PARENT_PID``. A stored "image" that is the name of a function in ``POISON`` runs it
where the decoder would have decoded it; everything else is decoded as ever. All but the model is real.
"""

from __future__ import annotations

import ctypes
import os
import signal
import stat
import sys
import time
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from uuid import UUID

import numpy as np
from PIL import Image

from alexq_schema.models import ModelVersion
from alexq_worker.inference.decode import Decoder
from alexq_worker.isolation import child, messages

MEBIBYTE = 2**20

_decode = Decoder.decode


class StandIn:
    """Every image is of class 3, then 1."""

    def __init__(self, side: int) -> None:
        self._side = side

    @classmethod
    def load(cls, version: ModelVersion, **_: Any) -> StandIn:
        print("loading prints to stdout")
        return cls(version.info.preprocessing.crop)

    def warm_up(self) -> None:
        pass

    def new_batch(self) -> np.ndarray:
        return np.zeros((1, self._side, self._side, 3), np.uint8)

    def classify(self, _: np.ndarray) -> Any:
        return SimpleNamespace(indices=np.array([[3, 1]]), probabilities=np.array([[0.75, 0.25]]))


def answer_raw(line: bytes) -> None:
    """Write into the pipe of answers, which has a number above 2."""
    pipe = next(fd for fd in range(3, 20) if is_pipe(fd))
    os.write(pipe, line)


def is_pipe(fd: int) -> bool:
    try:
        return stat.S_ISFIFO(os.fstat(fd).st_mode)
    except OSError:
        return False


def bomb() -> None:
    """Take 512 MiB more than there is, in pieces, as a decoder would."""
    kept = [np.ones(16 * MEBIBYTE, np.uint8) for _ in range(32)]
    raise AssertionError(f"{len(kept)} pieces fitted")


def torch_bomb() -> None:
    """Fail as torch's allocator does under the limit."""
    raise RuntimeError(
        "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory"
    )


def lie(**changes: Any) -> None:
    job_id = changes.pop("job_id", JOB[0])
    said = {"job_id": job_id, "indices": [0], "probabilities": [1.0], "decode_s": 0.0, "forward_s": 0.0}
    answer_raw(messages.Classified.model_construct(**{**said, **changes}).to_line())


def hang() -> None:
    """Say so by making a file, then do nothing more."""
    if path := os.environ.get("HANGING"):
        Path(path).touch()
    time.sleep(3600)


def chatter() -> None:
    print("a library prints", flush=True)
    os.write(1, b'{"kind": "ready"}\n')


def speak_twice() -> None:
    lie()
    time.sleep(0.2)  # until the first has been read
    lie()
    hang()


def nul() -> None:
    refused = messages.ImageFailed.model_construct(job_id=JOB[0], code="image_corrupt", detail="a\0b")
    answer_raw(refused.to_line())
    hang()


def out_of_reach() -> None:
    lie(indices=[1000])
    hang()


def another_job() -> None:
    lie(job_id=UUID(int=0))
    hang()


def spin() -> None:
    while True:
        pass


JOB: list[UUID] = []
POISON: dict[bytes, Callable[[], object]] = {
    b"kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    b"segv": lambda: ctypes.string_at(0),
    b"exit": lambda: os._exit(7),
    b"raise": lambda: 1 / 0,
    b"hang": hang,
    b"spin": spin,
    b"bomb": bomb,
    b"torch_bomb": torch_bomb,
    b"chatter": chatter,
    b"not_json": lambda: (answer_raw(b"\x80 not json\n"), hang()),
    b"not_an_answer": lambda: (answer_raw(b'{"kind": "pwned"}\n'), hang()),
    b"endless": lambda: (answer_raw(b"x" * 70_000), hang()),
    b"speak_twice": speak_twice,
    b"nul": nul,
    b"out_of_reach": out_of_reach,
    b"another_job": another_job,
}


def poisoned(self: Decoder, data: bytes, crops: int = 1) -> Any:
    if data not in POISON:
        return _decode(self, data, crops)
    POISON[data]()
    file = BytesIO()
    Image.new("RGB", (8, 8)).save(file, "PNG")
    return _decode(self, file.getvalue())


def noting_the_job(self: child.Classifier, job: messages.Job) -> messages.Answer:
    JOB[:] = [job.job_id]
    return answer(self, job)


if __name__ == "__main__":
    torch = ModuleType("torch")
    torch.set_num_threads = lambda _: None  # type: ignore[attr-defined]
    engine = ModuleType("alexq_worker.inference.engine")
    engine.Engine = StandIn  # type: ignore[attr-defined]
    sys.modules |= {"torch": torch, engine.__name__: engine}
    Decoder.decode = poisoned  # type: ignore[method-assign]
    answer = child.Classifier.answer
    child.Classifier.answer = noting_the_job  # type: ignore[method-assign]
    sys.exit(child.main())
