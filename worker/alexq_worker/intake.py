"""How a worker takes messages from the broker: a channel for each lane, none while its lane is full.

Celery's prefetch counts messages, but a message carries one job or many; this step lets each channel ask
the pipeline instead. Celery consumes the interactive queue itself; the bulk queue gets a channel of its own
beside it, so that bulk messages can wait while interactive ones come in.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Protocol

from celery import bootsteps
from kombu.common import ignore_errors

from alexq_schema.names import DEFAULT_QUEUE, Lane, queue_name

REFILL_PARTS = 8
"""A full lane takes more when this part of it is free: a round trip for one message is dear."""

EVENTS_EVERY_S = 0.5
"""Events of tasks go to those who watch (Flower) this often, many at once."""
EVENTS_AT_ONCE = 1_000
"""Events that wait at most."""


class Room(Protocol):
    """The pipeline's side."""

    @property
    def capacity(self) -> int:
        """Jobs of one lane that may be in flight."""

    def room(self, lane: Lane) -> int:
        """Return how many jobs of this lane may be taken."""


class Intake:
    """Connects one pipeline and one Celery consumer; the consumer may reconnect."""

    def __init__(self, queue: str = DEFAULT_QUEUE) -> None:
        self._queue = queue
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
            _bulk: Any = None
            _sending_events: Any = None

            def start(self, consumer: Any) -> None:
                intake._hub = consumer.hub
                channel = consumer.connection.channel()
                for lane, qos in (
                    (Lane.INTERACTIVE, consumer.task_consumer.channel.qos),
                    (Lane.BULK, channel.qos),
                ):
                    qos.room = partial(room.room, lane)
                    qos.refill = max(1, room.capacity // REFILL_PARTS)
                self._bulk = consumer.app.amqp.TaskConsumer(
                    channel,
                    queues=[consumer.app.amqp.queues[queue_name(Lane.BULK, intake._queue)]],
                    on_decode_error=consumer.on_decode_error,
                )
                self._bulk.on_message = consumer.create_task_handler()
                self._bulk.consume()
                self._send_events_together(consumer)

            def _send_events_together(self, consumer: Any) -> None:
                """Celery itself would send the buffered events after each round of the event loop."""
                events = consumer.event_dispatcher
                events.on_send_buffered = None
                events.buffer_limit = EVENTS_AT_ONCE
                self._sending_events = consumer.hub.call_repeatedly(EVENTS_EVERY_S, events.flush)

            def stop(self, consumer: Any) -> None:
                if self._sending_events is not None:
                    self._sending_events.cancel()
                    ignore_errors(consumer, consumer.event_dispatcher.flush)
                if self._bulk is not None:
                    ignore_errors(consumer, self._bulk.cancel)

            def shutdown(self, consumer: Any) -> None:
                self.stop(consumer)
                if self._bulk is not None:
                    ignore_errors(consumer, self._bulk.channel.close)

        return IntakeStep


def _nothing() -> None:
    """Do nothing; the hub comes round."""
