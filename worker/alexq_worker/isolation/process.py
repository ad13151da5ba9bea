"""The child process and its pipes, as the worker sees them."""

from __future__ import annotations

import logging
import os
import select
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence

from pydantic import ValidationError

from alexq_schema.errors import EngineError, WorkerCrashedError
from alexq_worker.isolation.messages import MAX_ANSWER_BYTES, OUT_OF_MEMORY, Answer, Line, parse_answer

END_S = 2.0
"""For a process to be gone after SIGKILL, or after it closed its answers."""

OUT_OF_MEMORY_DETAIL = "the process ran out of memory"

log = logging.getLogger("alexq.isolation")


class ChildProcess:
    """One child. One thread asks and closes; any may end it."""

    def __init__(self, argv: Sequence[str], clock: Callable[[], float]) -> None:
        """Start it, in a session of its own: signals to the worker's process group do not reach it.

        Raises:
            OSError: there is no such program, or no room for a process.
        """
        self._clock = clock
        self._process = subprocess.Popen(
            [*argv, str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,
            # It reads no settings, and those hold the passwords of the services.
            env={name: value for name, value in os.environ.items() if not name.startswith("ALEXQ_")},
        )
        self._reaping = threading.Lock()  # so that no thread signals a pid that another has reaped
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._stdin, self._stdout = self._process.stdin, self._process.stdout
        self._readable = select.poll()
        self._readable.register(self._stdout, select.POLLIN)
        self._heard = b""

    @property
    def is_ended(self) -> bool:
        """Return whether the process is gone, and reaped."""
        with self._reaping:
            return self._process.poll() is not None

    def is_quiet(self) -> bool:
        """Return whether it lives and has said nothing unasked."""
        return not self._heard and not self._readable.poll(0)

    def ask(self, message: Line, within_s: float) -> Answer:
        """Send a message and return the answer to it.

        Raises:
            EngineError: the process was gone before it got the message.
            WorkerCrashedError: as :meth:`hear`.
        """
        try:
            self._stdin.write(message.to_line())  # shorter than a pipe's buffer: does not block
        except BrokenPipeError as error:
            raise EngineError("the isolation process ended before it got the job") from error
        return self.hear(within_s)

    def hear(self, within_s: float) -> Answer:
        """Return the next answer.

        Raises:
            WorkerCrashedError: it died, took too long, or gave no proper answer; says which.
        """
        deadline = self._clock() + within_s
        while b"\n" not in self._heard and len(self._heard) <= MAX_ANSWER_BYTES:
            left_s = max(0.0, deadline - self._clock())  # what is there counts, however late we look
            if not self._readable.poll(left_s * 1000):
                raise WorkerCrashedError(f"took longer than {within_s:g} s; the process was ended")
            if not (part := self._stdout.read(MAX_ANSWER_BYTES)):
                raise WorkerCrashedError(self._how_it_ended())
            self._heard += part
        line, _, self._heard = self._heard.partition(b"\n")
        if len(line) > MAX_ANSWER_BYTES:
            raise WorkerCrashedError(f"the process answered with more than {MAX_ANSWER_BYTES:,} bytes")
        try:
            return parse_answer(line)
        except ValidationError as error:
            raise WorkerCrashedError("the process gave an answer that makes no sense") from error

    def end(self) -> None:
        """Kill the process, whatever it does, and reap it; from any thread."""
        with self._reaping:
            self._process.kill()
        if not self._is_gone_within(END_S):
            log.error("the isolation process %s does not die of SIGKILL", self._process.pid)

    def close(self) -> None:
        """Close the pipes."""
        self._stdin.close()
        self._stdout.close()

    def _how_it_ended(self) -> str:
        if not self._is_gone_within(END_S):
            return "the process closed its answers without one"
        return _how(self._process.returncode)

    def _is_gone_within(self, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while not self.is_ended:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.01)
        return True


def _how(returncode: int) -> str:
    if returncode == OUT_OF_MEMORY:
        return OUT_OF_MEMORY_DETAIL
    if returncode == -signal.SIGXCPU:
        return "the process died of SIGXCPU: it used more CPU time than a job may"
    if returncode < 0:
        names = {number.value: number.name for number in signal.Signals}
        return f"the process died of {names.get(-returncode, f'signal {-returncode}')}"
    return f"the process ended with exit code {returncode}"
