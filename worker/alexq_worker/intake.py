"""How much a worker takes from the broker: no message while the pipeline is full.

Celery's prefetch counts messages, but a message carries one job or many. This step asks the
pipeline instead, at the place where Celery's own ``worker_disable_prefetch`` asks the pool.
"""

from __future__ import annotations

from typing import Any, Protocol

from celery import bootsteps


class Room(Protocol):
    """The pipeline's side."""

    @property
    def has_room(self) -> bool:
        """Return whether one more message may be taken."""


class Intake:
    """Connects one pipeline and one Celery consumer; the consumer may reconnect."""

    def __init__(self) -> None:
        self._hub: Any = None

    def wake(self) -> None:
        """Make the consumer look again; called from the pipeline's threads."""
        if self._hub is not None:
            self._hub.call_soon(_nothing)

    def step(self, room: Room) -> type[bootsteps.StartStopStep]:
        """Return the consumer bootstep to register with the Celery app."""
        intake = self

        class IntakeStep(bootsteps.StartStopStep):  # type: ignore[misc]
            requires = ("celery.worker.consumer.tasks:Tasks",)

            def start(self, consumer: Any) -> None:
                intake._hub = consumer.hub
                qos = consumer.task_consumer.channel.qos
                within_prefetch = qos.can_consume
                qos.can_consume = lambda: room.has_room and within_prefetch()
                restore = qos.restore_unacked_once

                def restore_if_connected(*args: Any, **kwargs: Any) -> None:
                    # kombu closes the channel of a lost connection like any other, and would end the
                    # worker with an AttributeError here. Those messages come back by SQL.
                    if qos.channel.connection.client is not None:
                        restore(*args, **kwargs)

                qos.restore_unacked_once = restore_if_connected

        return IntakeStep


def _nothing() -> None:
    """Do nothing; the hub comes round."""
