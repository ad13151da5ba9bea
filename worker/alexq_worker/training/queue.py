"""Trainings as Celery tasks: handed in, looked at, cancelled. Knows no torch."""

from __future__ import annotations

from typing import Any, Final
from uuid import UUID

from celery import Celery, states
from celery.result import AsyncResult
from kombu.exceptions import KombuError
from redis.exceptions import RedisError

from alexq_schema.broker import BrokerAddress
from alexq_schema.celery_settings import celery_worker_config
from alexq_schema.errors import BrokerUnavailableError
from alexq_schema.ids import new_id
from alexq_schema.names import KEY_TRAINING_CANCELLED, QUEUE_TRAIN, TASK_TRAIN_MODEL
from alexq_schema.settings import Settings
from alexq_schema.training import TrainModel

TRAINING: Final = "TRAINING"
"""Celery state of a training that makes steps; its meta says how far it is."""
_KEPT_S: Final = 30 * 86_400
_SOONEST_S: Final = 5.0
_LOOKS_EVERY_S: Final = 2.0


def celery_app(settings: Settings) -> Celery:
    """Return the app that hands in trainings and runs them, without its task."""
    config = celery_worker_config(settings)
    app = Celery("alexq-train", set_as_current=False)
    app.conf.update(
        config,
        **BrokerAddress.parse(settings.broker_url).celery_results,
        # A message that a killed worker held is there again after this. While a training lasts longer, its
        # message comes back too: whoever takes it finds the training's lock held, or its version there.
        broker_transport_options=config["broker_transport_options"]
        | {
            "visibility_timeout": max(_SOONEST_S, settings.silent_after_s),
            "unacked_restore_interval": _LOOKS_EVERY_S,
            "unacked_restore_throttle": 1,
        },
        result_expires=_KEPT_S,
        task_queues={QUEUE_TRAIN: {}},
        task_default_queue=QUEUE_TRAIN,
        task_reject_on_worker_lost=True,
    )
    return app


def hand_in(settings: Settings, request: TrainModel) -> UUID:
    """Put a training on the queue; return its id.

    Raises:
        BrokerUnavailableError: the broker does not answer.
    """
    task_id = new_id()
    with celery_app(settings) as app:
        try:
            app.send_task(
                TASK_TRAIN_MODEL, kwargs=request.model_dump(mode="json"), task_id=str(task_id), retry=False
            )
        except (KombuError, RedisError, OSError) as error:
            raise _unavailable(error) from error
    return task_id


def look_at(settings: Settings, task_id: UUID) -> dict[str, Any]:
    """Return a training's ``state`` and, where there is more to say, ``info``.

    Raises:
        BrokerUnavailableError: the broker does not answer.
    """
    with celery_app(settings) as app:
        try:
            result = AsyncResult(str(task_id), app=app)
            state, info = result.state, result.info
        except (KombuError, RedisError, OSError) as error:
            raise _unavailable(error) from error
    return {
        "training_id": str(task_id),
        "state": state,
        "info": str(info) if isinstance(info, Exception) else info,
    }


def cancel(settings: Settings, task_id: UUID) -> None:
    """End a training that runs and let one that waits never begin; its checkpoint stays.

    Raises:
        BrokerUnavailableError: the broker does not answer.
    """
    with celery_app(settings) as app:
        try:
            app.backend.set(_wish(str(task_id)), b"cancel")
            if app.backend.get_state(str(task_id)) not in states.READY_STATES:
                app.backend.store_result(str(task_id), None, states.REVOKED)
        except (KombuError, RedisError, OSError) as error:
            raise _unavailable(error) from error


def is_cancelled(app: Celery, task_id: str) -> bool:
    """Return whether somebody wants the training to end: it asks for itself, so nobody need be told."""
    return app.backend.get(_wish(task_id)) is not None


def _wish(task_id: str) -> str:
    return f"{KEY_TRAINING_CANCELLED}:{task_id}"


def _unavailable(error: Exception) -> BrokerUnavailableError:
    return BrokerUnavailableError(
        f"the broker does not answer: {error}; start it, or correct ALEXQ_BROKER_URL"
    )
