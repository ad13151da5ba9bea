"""How a worker takes messages from the broker: a channel for each lane, none while its lane is full.

Celery's prefetch counts messages, but a message carries one job or many. This step asks the
pipeline instead, at the place where Celery's own ``worker_disable_prefetch`` asks the pool. Celery
consumes the interactive queue itself; the bulk queue gets a channel of its own beside it, so that bulk
messages can wait while interactive ones come in. Acks of one round of the event loop are one round trip.
"""

from __future__ import annotations

import logging
from typing import Any, Protocol

from celery import bootsteps
from kombu.common import ignore_errors
from kombu.transport.virtual.base import QoS as VirtualQoS

from alexq_schema.names import Lane

log = logging.getLogger("alexq.worker")


class Room(Protocol):
    """The pipeline's side."""

    def has_room(self, lane: Lane) -> bool:
        """Return whether one more message of this lane may be taken."""


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
            _bulk: Any = None

            def start(self, consumer: Any) -> None:
                intake._hub = consumer.hub
                intake._adapt(consumer.task_consumer.channel.qos, room, Lane.INTERACTIVE)
                channel = consumer.connection.channel()
                intake._adapt(channel.qos, room, Lane.BULK)
                self._bulk = consumer.app.amqp.TaskConsumer(
                    channel,
                    queues=[consumer.app.amqp.queues[Lane.BULK.queue]],
                    on_decode_error=consumer.on_decode_error,
                )
                self._bulk.on_message = consumer.create_task_handler()
                self._bulk.consume()

            def stop(self, consumer: Any) -> None:
                if self._bulk is not None:
                    ignore_errors(consumer, self._bulk.cancel)  # type: ignore[no-untyped-call]

            def shutdown(self, consumer: Any) -> None:
                self.stop(consumer)
                if self._bulk is not None:
                    ignore_errors(consumer, self._bulk.channel.close)  # type: ignore[no-untyped-call]

        return IntakeStep

    def _adapt(self, qos: Any, room: Room, lane: Lane) -> None:
        within_prefetch = qos.can_consume
        qos.can_consume = lambda: room.has_room(lane) and within_prefetch()
        restore = qos.restore_unacked_once

        # kombu closes the channel of a lost connection like any other, and would end the worker with an
        # AttributeError where it is used again. What was not restored or acked then comes back by SQL.
        def is_connected() -> bool:
            return qos.channel.connection is not None and qos.channel.connection.client is not None

        def restore_if_connected(*args: Any, **kwargs: Any) -> None:
            if is_connected():
                restore(*args, **kwargs)

        qos.restore_unacked_once = restore_if_connected
        acked: list[str] = []

        def ack(delivery_tag: str) -> None:
            acked.append(delivery_tag)
            if len(acked) == 1:
                self._hub.call_soon(flush)

        def flush() -> None:
            tags, acked[:] = list(acked), []
            if not is_connected():
                return
            try:
                with qos.channel.conn_or_acquire() as client, client.pipeline() as pipe:
                    pipe.zrem(qos.unacked_index_key, *tags).hdel(qos.unacked_key, *tags).execute()
            except qos.channel.connection_errors as error:
                # They come again and find nothing to claim; the consumer notices the loss by itself.
                log.warning("could not ack %d messages: %s", len(tags), error)
            for tag in tags:
                VirtualQoS.ack(qos, tag)  # type: ignore[no-untyped-call]

        qos.ack = ack


def _nothing() -> None:
    """Do nothing; the hub comes round."""
