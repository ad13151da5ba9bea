"""``python -m alexq_worker.isolation.child PARENT_PID``: runs one job at a time, under limits.

:class:`alexq_worker.isolation.parent.IsolatedEngine` starts it. It dies with its parent (on Linux
by a signal from the kernel; elsewhere at the end of stdin, or of its CPU time) and ignores SIGINT
and SIGTERM: only its parent ends it. What libraries print goes to stderr, never among the answers.

Limits: memory by RLIMIT_DATA (Linux), not RLIMIT_AS, because CUDA reserves address space far beyond
what it uses; CPU time of each job by RLIMIT_CPU; the parent watches the clock. A child that runs out
of memory exits with ``OUT_OF_MEMORY`` and answers nothing. Where a C library hides that it got no
memory (libjpeg, libwebp), the image is refused as corrupt: the limit must stay well above what the
decoder lets an image of ``max_image_pixels`` take.
"""

from __future__ import annotations

import ctypes
import logging
import math
import os
import resource
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from alexq_schema import logs
from alexq_schema.errors import AlexqError, FailedError, ImageError
from alexq_schema.images import open_image_store
from alexq_schema.models import ModelStore
from alexq_worker.isolation.messages import (
    OUT_OF_MEMORY,
    Answer,
    Begun,
    Classified,
    ImageFailed,
    Job,
    JobErrored,
    Ready,
    Setup,
    readable,
)
from alexq_worker.pipeline.decode import load_picture

if TYPE_CHECKING:
    from uuid import UUID

    from alexq_worker.inference.crops import Picture, TenCrops
    from alexq_worker.inference.decode import Decoder

PR_SET_PDEATHSIG = 1
"""``prctl(2)``: the signal this process gets when the thread that made it ends."""

_NO_MEMORY = ("can't allocate memory", "bad_alloc", "out of memory when reading image file")
"""How torch on the CPU, C++ and Pillow say it. Not CUDA's: its memory is not limited here."""

log = logging.getLogger("alexq.isolation.child")


def main() -> int:
    """Serve the parent until it hangs up; return the exit code."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    _die_with(int(sys.argv[1]))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    answers = os.dup(1)
    os.dup2(2, 1)  # before torch is imported: libraries print
    requests = sys.stdin.buffer
    if not (line := requests.readline()):
        return 0
    setup = Setup.model_validate_json(line)
    logs.configure(setup.log_format, "isolation")
    try:
        classifier = Classifier(setup)
    except AlexqError as error:
        _say(answers, _errored(None, error))
        return 1
    _limit_memory(setup.memory_bytes)
    _say(answers, Ready())
    while line := requests.readline():
        job = Job.model_validate_json(line)
        _say(answers, Begun(job_id=job.job_id))
        _limit_cpu(job.cpu_s)
        _say(answers, classifier.answer(job))
    return 0


class Classifier:
    """The model, resident in this process."""

    def __init__(self, setup: Setup) -> None:
        """Load and warm up the model.

        Raises:
            ModelError, DeviceError, EngineError, SettingsError: it cannot be served.
        """
        import torch

        from alexq_worker.inference.decode import Decoder
        from alexq_worker.inference.engine import Engine

        torch.set_num_threads(1)  # one image; the other cores are the worker's
        version = ModelStore(setup.models_dir).find(setup.model)
        self._engine = Engine.load(version, device=setup.device, precision=setup.precision, max_batch=1)
        self._engine.warm_up()
        self._decoder = _WatchedDecoder(Decoder(version.info.preprocessing, setup.max_image_pixels))
        self._images = open_image_store(setup.images_url)
        self._batch = self._engine.new_batch()

    def answer(self, job: Job) -> Answer:
        """Return what became of ``job``; ends the process when it runs out of memory."""
        try:
            return self._classify(job)
        except AlexqError as error:
            _exit_if_out_of_memory(error)
            return _errored(job.job_id, error)
        except Exception as error:  # the process loop
            _exit_if_out_of_memory(error)
            log.exception("a job failed in a way that has no name", extra={"job_id": job.job_id})
            return _errored(job.job_id, FailedError(f"{type(error).__name__}: {error}"))

    def _classify(self, job: Job) -> Answer:
        started = time.perf_counter()
        options = job.options
        entries = 1 if options is None else options.entries
        picture = load_picture(self._images, self._decoder, job.image_key, entries)
        decoded = time.perf_counter()
        if isinstance(picture, ImageError):
            return ImageFailed(job_id=job.job_id, code=picture.code, detail=readable(picture.detail))
        if isinstance(picture, AlexqError):
            return _errored(job.job_id, picture)
        if options is None:
            picture.write_to(self._batch[0])
            top = self._engine.classify(self._batch)
            indices, probabilities = top.indices[0].tolist(), top.probabilities[0].tolist()
        else:
            pixels = np.empty((entries, *self._batch.shape[1:]), np.uint8)
            picture.write_to(pixels[0] if entries == 1 else pixels)
            [(indices, probabilities)] = self._engine.score(pixels, [options])
        return Classified(
            job_id=job.job_id,
            indices=indices,
            probabilities=[min(1.0, one) for one in probabilities],  # a mean may round to more
            decode_s=decoded - started,
            forward_s=time.perf_counter() - decoded,
        )


class _WatchedDecoder:
    """Sees errors before they are translated: an image is not at fault when memory ran out."""

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder

    def decode(self, data: bytes, crops: int = 1) -> Picture | TenCrops:
        try:
            return self._decoder.decode(data, crops)
        except Exception as error:
            _exit_if_out_of_memory(error)
            raise


def _errored(job_id: UUID | None, error: AlexqError) -> JobErrored:
    return JobErrored(
        job_id=job_id, code=error.code, detail=readable(error.detail), is_retryable=error.is_retryable
    )


def _say(answers: int, answer: Answer) -> None:
    os.write(answers, answer.to_line())  # two fit into a pipe's buffer, which holds no more: never partial


def _exit_if_out_of_memory(error: BaseException | None) -> None:
    while error is not None:
        if isinstance(error, MemoryError) or any(text in str(error) for text in _NO_MEMORY):
            os._exit(OUT_OF_MEMORY)  # without cleaning up, which would need memory
        error = error.__cause__ or error.__context__


def _die_with(parent_pid: int) -> None:
    """Have the kernel kill this process when the thread that started it ends (Linux)."""
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0) != 0:
            sys.exit(f"prctl(PR_SET_PDEATHSIG): {os.strerror(ctypes.get_errno())}")
    if os.getppid() != parent_pid:  # it died before prctl could know
        sys.exit(1)


def _limit_memory(more_bytes: int) -> None:
    """Let this process take ``more_bytes`` above what it holds (Linux)."""
    if sys.platform == "linux":
        fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        held_bytes = int(fields["VmData"].removesuffix("kB")) * 1024
        _set_soft_limit(resource.RLIMIT_DATA, held_bytes + more_bytes)


def _limit_cpu(more_s: float) -> None:
    """Let this process use ``more_s`` of CPU time, rounded up; then SIGXCPU ends it."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    _set_soft_limit(resource.RLIMIT_CPU, math.ceil(usage.ru_utime + usage.ru_stime + more_s) + 1)


def _set_soft_limit(which: int, value: int) -> None:
    hard = resource.getrlimit(which)[1]
    resource.setrlimit(which, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except MemoryError:
        os._exit(OUT_OF_MEMORY)
