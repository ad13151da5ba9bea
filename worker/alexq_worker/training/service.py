"""The process that runs queued trainings: a Celery worker with one child, one training at a time.

The child is new for every training, so that a device's memory comes back, and asks between steps whether
the training is cancelled. The message of a child that dies is back at once, a killed worker's after
``ALEXQ_SILENT_AFTER_S``: the training goes on from its last checkpoint. Only the child imports torch.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any, Final

from celery import Celery, Task, signals, states
from celery.exceptions import Ignore, Reject

from alexq_schema.errors import TrainingBusyError
from alexq_schema.models import ModelStore
from alexq_schema.names import QUEUE_TRAIN, TASK_TRAIN_MODEL
from alexq_schema.settings import Settings
from alexq_schema.training import TrainModel
from alexq_worker.model_output import report
from alexq_worker.training.queue import TRAINING, celery_app, is_cancelled
from alexq_worker.training.telling import T, Teller

_TELLS_EVERY_S: Final = 1.0
_BUSY_PAUSE_S: Final = 5.0
_CHECKPOINT_EVERY_S: Final = 60.0

log = logging.getLogger("alexq.train")


def serve(settings: Settings) -> int:
    """Run trainings until SIGTERM or SIGINT, which put the one in progress back; return the exit code."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.WARNING)
    logging.getLogger("alexq").setLevel(logging.INFO)
    app = celery_app(settings)
    register(app, settings)
    signals.worker_ready.connect(_say_ready, weak=False)
    worker = app.Worker(
        hostname=f"alexq-train-{os.getpid()}@{socket.gethostname()}",
        pool="prefork",
        queues=[QUEUE_TRAIN],
        concurrency=1,
        max_tasks_per_child=1,
        without_mingle=True,
        without_gossip=True,
        loglevel=logging.WARNING,
        quiet=True,
    )
    worker.start()
    return int(worker.exitcode or 0)


def register(app: Celery, settings: Settings) -> None:
    """Add the task to ``app``."""

    def train_model(task: Task, **body: Any) -> dict[str, Any]:
        request = TrainModel.of(**body)
        store = ModelStore(settings.models_dir)
        training_id = task.request.id
        if task.backend.get_state(training_id) in states.READY_STATES:
            raise Ignore  # its message has come again, or it was cancelled before it began
        task.update_state(training_id, TRAINING)  # Celery's STARTED would precede that look
        log.info("training %s: %s from %s", training_id, request.ref, request.data)
        from alexq_worker.training.train import train

        try:
            version = train(
                request,
                settings,
                resume=True,
                checkpoint_every_s=_CHECKPOINT_EVERY_S,
                teller=_Relay(task, training_id),
            )
        except TrainingBusyError as busy:
            time.sleep(_BUSY_PAUSE_S)
            raise Reject(str(busy), requeue=True) from busy
        except _CancelledError as cancelled:
            log.info("training %s is cancelled; its checkpoint stays", training_id)
            task.update_state(training_id, states.REVOKED)
            raise Ignore from cancelled
        report(store, version, activate=request.activate)
        assert version.info.training is not None
        return {"model": version.info.ref, "held_out": version.info.training.held_out.model_dump()}

    app.task(train_model, name=TASK_TRAIN_MODEL, bind=True)


class _CancelledError(Exception):
    """Somebody does not want this training any more."""


class _Relay(Teller):
    """Tells on stderr, tells Celery how far the training is, and asks whether it is still wanted."""

    def __init__(self, task: Task, training_id: str) -> None:
        super().__init__()
        self._celery_task = task
        self._id = training_id
        self._told_at = 0.0

    def count(self, what: str, things: Iterable[T], total: int) -> Iterator[T]:
        for number, thing in enumerate(super().count(what, things, total), 1):
            self._tell({"doing": what, "done": number, "of": total})
            yield thing

    def step(self, epoch: int, epochs: int, step: int, steps: int, loss: float, accuracy: float) -> None:
        super().step(epoch, epochs, step, steps, loss, accuracy)
        self._tell(
            {
                "epoch": epoch,
                "epochs": epochs,
                "step": step,
                "steps": steps,
                "loss": loss,
                "accuracy": accuracy,
            }
        )

    def _tell(self, meta: dict[str, Any]) -> None:
        if time.monotonic() - self._told_at < _TELLS_EVERY_S:
            return
        self._told_at = time.monotonic()
        if is_cancelled(self._celery_task.app, self._id):
            raise _CancelledError
        self._celery_task.update_state(self._id, TRAINING, meta)


def _say_ready(**_: Any) -> None:
    log.info("ready")


def main() -> int:
    """Serve with the settings of the environment."""
    from alexq_schema import process

    return process.run(lambda: sys.exit(serve(Settings.load())))
