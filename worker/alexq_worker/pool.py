"""The Celery pool of an alexq worker: requests wait for the pipeline without a thread of their own.

A task of ours begins (:meth:`PipelineTask.begin`) when its message arrives, on the consumer's thread,
and gives back a future. When that is done, one thread runs Celery's own tracer, in which the task's
``run`` finds the outcome ready: results, links, errors, signals, events and acks are Celery's, unchanged.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from functools import partial
from typing import Any

from celery import Task
from celery.concurrency.base import BasePool, apply_target

log = logging.getLogger("alexq.worker")

OUTCOME = "alexq_outcome"
"""Where a request carries the future that its task waits for."""


class PipelineTask(Task):  # type: ignore[misc]
    """A task whose work is done by the pipeline."""

    typing = False  # a message's shape is checked by its own parser

    def begin(self, request: Mapping[str, Any]) -> Future[Any]:
        """Start the work of one message; must not block. What it raises is the task's failure."""
        raise NotImplementedError

    @property
    def outcome(self) -> Any:
        """The outcome of the work begun for the present request; raises what it failed of."""
        return getattr(self.request, OUTCOME).result(timeout=0)


class Pool(BasePool):  # type: ignore[misc]
    """Runs requests of :class:`PipelineTask` when their outcome is there; Celery's own tasks at once."""

    signal_safe = False

    def on_start(self) -> None:
        """Start the thread that finishes requests."""
        self._done: queue.SimpleQueue[Callable[[], Any] | None] = queue.SimpleQueue()
        self._finisher = threading.Thread(target=self._finish, name="alexq-finish", daemon=True)
        self._finisher.start()

    def on_stop(self) -> None:
        """Finish what is done; what is not goes back to the broker with its message."""
        self._done.put(None)
        self._finisher.join()

    def on_apply(
        self,
        target: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any] | None = None,
        callback: Callable[..., Any] | None = None,
        accept_callback: Callable[..., Any] | None = None,
        **_: Any,
    ) -> Future[Any]:
        """Begin one request; called by Celery on the consumer's thread."""
        name, _task_id, request, *_rest = args
        started = time.monotonic()
        if accept_callback is not None:
            accept_callback(os.getpid(), started)
        outcome = self._begin(self.app.tasks[name], request)
        request[OUTCOME] = outcome
        finish = partial(
            apply_target, target, args, kwargs, callback and partial(_with_runtime, callback, started)
        )
        outcome.add_done_callback(lambda _: self._done.put(finish))
        return outcome

    @staticmethod
    def _begin(task: Task, request: Mapping[str, Any]) -> Future[Any]:
        outcome: Future[Any] = Future()
        try:
            if isinstance(task, PipelineTask):
                return task.begin(request)
            outcome.set_result(None)
        except Exception as error:  # noqa: BLE001 - raised again where the task runs
            outcome.set_exception(error)
        return outcome

    def _finish(self) -> None:
        while (finish := self._done.get()) is not None:
            try:
                finish()
            except Exception:
                log.exception("a request could not be finished; its message goes to another worker")

    def _get_info(self) -> dict[str, Any]:
        return {**super()._get_info(), "max-concurrency": self.limit}


def _with_runtime(callback: Callable[..., Any], started: float, told: tuple[int, Any, float]) -> None:
    """Call Celery back with the time since the request began: the tracer saw only its end."""
    failed, value, _ = told
    callback((failed, value, time.monotonic() - started))
