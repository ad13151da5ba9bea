"""Runs suspects in a child process, one at a time, and says how each ended.

A job whose process died before may be what killed it. Here it costs a child: at most ``timeout_s``
of one thread of the worker, and a new child for the next suspect.

Threads: ``classify`` is called by one, which alone reads the pipes and opens and closes them while
a job runs. It must live as long as the worker: on Linux the kernel kills the child when the thread
that started it ends. ``stop`` comes from any thread, the idle timer has its own; both only kill, and
close a child that has no job. ``_lock`` guards which child there is and whether it has a job.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable, Sequence

from alexq_schema.errors import AlexqError, EngineError, WorkerCrashedError
from alexq_schema.options import Options
from alexq_schema.work import (
    Claim,
    Crashed,
    Errored,
    Failed,
    Outcome,
    Predictions,
    Succeeded,
)
from alexq_worker.isolation.messages import (
    Answer,
    Begun,
    Classified,
    ImageFailed,
    Job,
    JobErrored,
    Ready,
    Setup,
)
from alexq_worker.isolation.process import OUT_OF_MEMORY_DETAIL, ChildProcess
from alexq_worker.pipeline.commit import likely
from alexq_worker.pipeline.decode import unreadable
from alexq_worker.pipeline.ports import Version

ARGV = (sys.executable, "-m", "alexq_worker.isolation.child")
"""The child's command line, before the parent's process id."""

TIMEOUT_S = 30.0
"""For one job."""
START_TIMEOUT_S = 120.0
"""For importing torch and loading the model, on a host that may be busy with a worker's own start."""
IDLE_S = 60.0
"""After which a child is ended, to free its memory."""

STOPPING = "the worker is stopping"

log = logging.getLogger("alexq.isolation")


class IsolatedEngine:
    """Classifies in a child process; the pipeline's ``Isolation``. Nothing runs before the first suspect."""

    def __init__(
        self,
        setup: Setup,
        *,
        timeout_s: float = TIMEOUT_S,
        start_timeout_s: float = START_TIMEOUT_S,
        idle_s: float = IDLE_S,
        argv: Sequence[str] = ARGV,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare to serve as ``setup`` says; which model version, each job says."""
        self._setup = setup
        self._timeout_s = timeout_s
        self._start_timeout_s = start_timeout_s
        self._idle_s = idle_s
        self._argv = argv
        self._clock = clock
        self._lock = threading.Lock()
        self._child: ChildProcess | None = None
        self._child_ref = ""  # the version that it has
        self._has_job = False
        self._is_stopping = False
        self._idle_timer: threading.Timer | None = None

    def classify(self, claim: Claim, version: Version) -> Outcome:
        """Return what became of a job that ran alone, with ``version``.

        Returns:
            Crashed when the child died of it, broke a limit, or gave an answer that makes no sense;
            Errored, to be tried again, when no child could be had or :meth:`stop` was called.
        """
        try:
            options = Options.read(claim.options)
        except AlexqError as error:
            return unreadable(claim, error)
        try:
            job = Job(job_id=claim.job_id, image_key=claim.image_key, cpu_s=self._timeout_s, options=options)
            answer = self._begin(job, version.ref).hear(self._timeout_s)
            outcome = self._outcome(claim, version, options, answer)
        except (EngineError, WorkerCrashedError) as error:
            outcome = self._lost(claim, error)
        self._rest()
        return outcome

    def stop(self) -> None:
        """End the child, if there is one, and start no other; its job becomes Errored."""
        with self._lock:
            self._is_stopping = True
            self._end_child()

    def _begin(self, job: Job, ref: str) -> ChildProcess:
        """Return a child that has begun the job. One that dies before that costs the job nothing.

        Raises:
            EngineError: two in a row did not begin it.
        """
        child = self._ready_child(ref)
        try:
            return self._begun(child, job)
        except (EngineError, WorkerCrashedError) as error:
            log.info("another isolation process gets the job: %s", error, extra={"job_id": job.job_id})
            child.end()
        try:
            return self._begun(self._ready_child(ref), job)
        except WorkerCrashedError as error:
            raise EngineError(f"the isolation process did not begin the job: {error}") from error

    def _begun(self, child: ChildProcess, job: Job) -> ChildProcess:
        if child.ask(job, self._timeout_s) != Begun(job_id=job.job_id):
            raise WorkerCrashedError("the process answered something that it was not asked")
        return child

    def _ready_child(self, ref: str) -> ChildProcess:
        """Return a child that has this version and waits for a job, a new one if need be.

        Raises:
            EngineError: there is none to be had.
        """
        with self._lock:
            self._has_job = True
            if self._idle_timer:
                self._idle_timer.cancel()
            if self._is_stopping:
                raise EngineError(STOPPING)
            if self._child and self._child_ref == ref and self._child.is_quiet():
                return self._child
            if self._child:  # it has another version, or it died or spoke unasked since its last job
                self._child.end()
                self._child.close()
            try:
                child = self._child = ChildProcess(self._argv, self._clock)
                self._child_ref = ref
            except OSError as error:
                raise EngineError(f"cannot start the isolation process {self._argv}: {error}") from error
        try:
            answer = child.ask(self._setup.serving(ref), self._start_timeout_s)
        except WorkerCrashedError as error:
            raise EngineError(f"the isolation process did not get ready: {error}") from error
        if not isinstance(answer, Ready):
            why = answer.detail if isinstance(answer, JobErrored) else f"it said {answer.kind}"
            raise EngineError(f"the isolation process did not get ready: {why}")
        return child

    def _outcome(self, claim: Claim, version: Version, options: Options | None, answer: Answer) -> Outcome:
        """Raise WorkerCrashedError unless this can be the answer to this job."""
        if isinstance(answer, Ready | Begun) or answer.job_id != claim.job_id:
            raise WorkerCrashedError("the process answered something that it was not asked")
        if isinstance(answer, ImageFailed):
            return Failed(claim, answer.code, answer.detail)
        if isinstance(answer, JobErrored):
            return Errored(claim, answer.code, answer.detail, answer.is_retryable)
        predictions = _predictions(version, options, answer)
        return Succeeded(
            claim, predictions, version.model_id, answer.decode_s, answer.forward_s, batch_size=1
        )

    def _lost(self, claim: Claim, error: EngineError | WorkerCrashedError) -> Outcome:
        """End the child, and return whose fault that is."""
        with self._lock:
            is_stopping = self._is_stopping
            self._end_child()
        if is_stopping:
            return Errored(claim, EngineError.code, STOPPING, is_retryable=True)
        log.warning(
            "a job alone in a child: %s",
            error,
            extra={"job_id": claim.job_id, "submission_id": claim.submission_id},
        )
        if isinstance(error, EngineError):
            return Errored(claim, EngineError.code, error.detail, is_retryable=True)
        detail = error.detail
        if detail == OUT_OF_MEMORY_DETAIL:
            detail += f": it may take {self._setup.memory_bytes:,} bytes (ALEXQ_ISOLATION_MEMORY_BYTES)"
        return Crashed(claim, detail)

    def _rest(self) -> None:
        """Close a child that is no more; let one that lives wait for its next job, not for ever."""
        with self._lock:
            self._has_job = False
            if self._child and self._child.is_ended:
                self._child.close()
                self._child = None
            elif self._child:
                self._idle_timer = threading.Timer(self._idle_s, self._end_if_idle)
                self._idle_timer.daemon = True
                self._idle_timer.start()

    def _end_if_idle(self) -> None:
        with self._lock:
            if not self._has_job:
                self._end_child()

    def _end_child(self) -> None:
        """With the lock held: kill the child; close it too unless ``classify`` may be reading from it."""
        if self._idle_timer:
            self._idle_timer.cancel()
        if self._child:
            self._child.end()
            if not self._has_job:
                self._child.close()
                self._child = None


def _predictions(version: Version, options: Options | None, answer: Classified) -> Predictions:
    classes = version.predictions.classes
    if len(answer.indices) != len(answer.probabilities) or max(answer.indices) >= classes:
        raise WorkerCrashedError("the process answered with classes that the model does not have")
    indices = answer.indices if options is None else likely(answer.indices, answer.probabilities, options)
    return version.predictions.write(indices, answer.probabilities[: len(indices)])
