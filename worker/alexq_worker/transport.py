"""Celery's Redis transport, but many messages a round trip, and none that only a process knows of.

kombu pops one message at a time and records it as unacked afterwards: a process that is killed between the
two loses it. Here one script pops messages and records them, so there is no between. When a queue is empty,
the server moves its next message to the queue's second list (kombu has one for each priority) and so wakes
one worker, which then takes it by script like any other; whoever reads the queue also reads that list.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from queue import Empty
from typing import Any

from kombu.exceptions import ChannelError
from kombu.transport import TRANSPORT_ALIASES, redis, virtual
from kombu.utils.encoding import bytes_to_str
from kombu.utils.json import loads
from kombu.utils.uuid import uuid
from redis.exceptions import OutOfMemoryError

from alexq_schema.names import HEADER_JOBS, IDS_PER_MESSAGE, TASK_CLASSIFY_IMAGE

TAKE_BYTES = 4 * 2**20
"""Bytes of messages at which one answer of the broker ends, so that it serves others in between."""

ACKS_AT_ONCE = 64
ACK_WITHIN_S = 0.05
"""Acks go out when so many wait, or one has waited so long, at the next round of the event loop."""

FULL_PAUSE_S = 1.0
"""Pause before a broker without memory is asked again whether a message has come."""

TAKE = f"""#!lua flags=allow-oom
-- KEYS: unacked, its index, the list of the message that woke us, then the queue's lists in their order.
-- ARGV: jobs that there is room for, time in seconds, prefix of delivery tags, the queue.
local room, size, taken = tonumber(ARGV[1]), 0, {{}}

local function jobs(message)
    local _, told = string.find(message, '"{HEADER_JOBS}": ', 1, true)
    if told then return tonumber(string.match(message, '^%d+', told + 1)) or {IDS_PER_MESSAGE} end
    return string.find(message, '"{TASK_CLASSIFY_IMAGE}"', 1, true) and 1 or {IDS_PER_MESSAGE}
end

local function take(list)
    local message = redis.call('RPOP', list)
    if not message then return false end
    local tag = ARGV[3] .. #taken
    redis.call('HSET', KEYS[1], tag, '[' .. message .. ',"","' .. ARGV[4] .. '"]')
    redis.call('ZADD', KEYS[2], ARGV[2], tag)
    room, size, taken[#taken + 1] = room - jobs(message), size + #message, message
    return true
end

take(KEYS[3])
for number = 4, #KEYS do
    while room > 0 and size < {TAKE_BYTES} and take(KEYS[number]) do end
end
return taken
"""
"""Pops messages while those popped before leave room, records them as unacked, and returns them.

A message whose number of jobs is not known counts as the largest. The record is what kombu's own has, but
for the tag, which is this taking's, and the way back, which leads straight to the queue. It takes no more
memory than the message did, so a broker without any still gives out what it has.
"""

log = logging.getLogger("alexq.worker")


class QoS(redis.QoS):
    """What one channel has taken, and how much more it may."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._acked: list[str] = []
        self._acked_since = 0.0
        self._is_full = False
        self.room: Callable[[], int] = lambda: sys.maxsize
        """Returns for how many jobs there is room; the channel's user sets it."""
        self.refill = 1
        """Jobs for which there must be room again before more are taken, once there was none."""

    def can_consume_max_estimate(self) -> int:
        """Return how many jobs may be taken now."""
        within_prefetch = super().can_consume_max_estimate()
        room = self.room() if within_prefetch is None else min(self.room(), within_prefetch)
        self._is_full = room < (self.refill if self._is_full else 1)
        return 0 if self._is_full else room

    def can_consume(self) -> bool:
        """Return whether a message may be taken now."""
        return self.can_consume_max_estimate() > 0

    def append(self, message: Any, delivery_tag: str) -> None:
        """Note a message; it is recorded already."""
        virtual.QoS.append(self, message, delivery_tag)

    def ack(self, delivery_tag: str) -> None:
        """Note that a message is done; :meth:`flush` tells the broker."""
        if not self._acked:
            self._acked_since = time.monotonic()
        self._acked.append(delivery_tag)
        virtual.QoS.ack(self, delivery_tag)

    def flush_if_due(self) -> None:
        """Tell the broker of acks that have waited, or of many."""
        waited_s = time.monotonic() - self._acked_since
        if len(self._acked) >= ACKS_AT_ONCE or (self._acked and waited_s >= ACK_WITHIN_S):
            self.flush()

    def flush(self) -> None:
        """Tell the broker of all acks since the last time: one round trip."""
        tags, self._acked = self._acked, []
        if not tags:
            return
        try:
            with self.channel.conn_or_acquire() as client, client.pipeline() as pipe:
                pipe.zrem(self.unacked_index_key, *tags).hdel(self.unacked_key, *tags).execute()
        except self.channel.connection_errors as error:
            # They come again and find nothing to claim; the consumer notices the loss by itself.
            log.warning("could not ack %d messages: %s", len(tags), error)

    def restore_by_tag(self, tag: str, client: Any = None, leftmost: bool = False) -> None:
        """Return a message to its queue; what is no message cannot return, and is dropped."""
        try:
            super().restore_by_tag(tag, client, leftmost)
        except ValueError as error:
            self.drop(tag, error)

    def restore_unacked_once(self, stderr: Any = None) -> None:
        """Return what is not done to the queue, where the connection is not lost.

        kombu closes the channel of a lost connection like any other, and would end the worker with an
        AttributeError. What was not returned or acked then comes back by SQL.
        """
        if self.channel.is_connected:
            self.flush()
            super().restore_unacked_once(stderr)

    def drop(self, tag: str, error: Exception) -> None:
        """Forget what somebody put on the queue and no message can be made of."""
        log.error("dropped something from the queue that is no message: %s: %s", type(error).__name__, error)
        self._remove_from_indices(tag).execute()

    def has(self, tag: str) -> bool:
        """Return whether the message was noted and is not done."""
        return tag in self._delivered and tag not in self._dirty


class Channel(redis.Channel):
    """Takes the messages of one queue, and those of remote control as kombu does.

    It asks the broker one thing at a time: for messages, and when there are none, to be woken.
    """

    QoS = QoS
    _in_poll: Any = None
    _brpop_sent_at: Any = None
    _is_queue_empty = False
    _taking = ""
    _asks_from = 0.0

    @property
    def is_connected(self) -> bool:
        """Return whether the connection was not lost and not closed."""
        return self.connection is not None and self.connection.client is not None

    @cached_property
    def _shared_client(self) -> Any:
        return self._create_client()

    @contextmanager
    def conn_or_acquire(self, client: Any = None) -> Iterator[Any]:
        """Give a client; kombu makes a new one for every use."""
        yield client or self._shared_client

    def basic_consume(self, queue: str, *args: Any, **kwargs: Any) -> Any:
        """Begin to consume ``queue``.

        Raises:
            ChannelError: the channel consumes another one.
        """
        if queue not in self._fanout_queues and self.active_queues:
            raise ChannelError(f"this channel consumes {self.active_queues[0]}; {queue} needs another one")
        return super().basic_consume(queue, *args, **kwargs)

    def _brpop_start(self, timeout: float | None = None) -> None:
        """Send the next question; called by kombu where none is under way and there is room."""
        room = self.qos.can_consume_max_estimate()
        if not self.active_queues or not room or time.monotonic() < self._asks_from:
            return
        [queue] = self.active_queues
        lists = [self._q_for_pri(queue, priority) for priority in self.priority_steps]
        question: tuple[Any, ...]
        if self._is_queue_empty:
            question = "BLMOVE", lists[0], lists[1], "RIGHT", "RIGHT", timeout or self.brpop_timeout
        else:
            self._taking = uuid()
            keys = self.unacked_key, self.unacked_index_key, lists[1], *lists
            question = "EVAL", TAKE, len(keys), *keys, room, time.time(), f"{self._taking}:", queue
        self._in_poll = self.client.connection
        self._brpop_sent_at = time.monotonic()
        self._in_poll.send_command(*question)

    def _brpop_read(self, **options: Any) -> bool:
        """Read the answer to what was asked, and hand out what was taken."""
        was_woken, self._is_queue_empty = self._is_queue_empty, False
        messages = self._answer("BLMOVE" if was_woken else "EVAL", options)
        if was_woken:
            self._brpop_start()  # at once: a round of the event loop later is a third of a millisecond later
            if self._in_poll is None:
                raise Empty
            messages = self._answer("EVAL", options)
        self._is_queue_empty = not messages
        for number, text in enumerate(messages):
            self._hand_out(f"{self._taking}:{number}", text)
        return bool(messages)

    def _answer(self, command: str, options: dict[str, Any]) -> Any:
        try:
            return self.client.parse_response(self.client.connection, command, **options)
        except OutOfMemoryError:  # of the waiting only: nothing has come, as far as anyone knows
            self._asks_from = time.monotonic() + FULL_PAUSE_S
            return []
        except self.connection_errors:
            self.client.connection.disconnect()  # kombu connects again at its next round
            raise
        finally:
            self._in_poll = None
            self._flush_brpop_reauth()

    def _hand_out(self, tag: str, text: bytes) -> None:
        if self._closing:
            self.qos.restore_by_tag(tag)
            return
        try:
            message = loads(bytes_to_str(text))
            message["properties"]["delivery_tag"] = tag
            self.connection._deliver(message, self.active_queues[0])
        except Exception as error:
            if self.qos.has(tag):
                raise
            self.qos.drop(tag, error)


class Poller(redis.MultiChannelPoller):
    """kombu's, which also sends acks."""

    def on_poll_start(self) -> None:
        """Prepare a round."""
        for channel in self._channels:
            channel.qos.flush_if_due()
        super().on_poll_start()


class Transport(redis.Transport):
    """Redis, as :class:`Channel` uses it."""

    Channel = Channel
    cycle: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.cycle = Poller()


class SentinelChannel(Channel, redis.SentinelChannel):
    """The same on the master that Sentinels name."""


class SentinelTransport(Transport):
    """Redis behind Sentinels."""

    default_port: Any = redis.SentinelTransport.default_port
    Channel = SentinelChannel


def use() -> None:
    """Let this process mean this transport by every URL of Redis; before it connects."""
    here = f"{__name__}:{Transport.__name__}"
    TRANSPORT_ALIASES.update(redis=here, rediss=here, sentinel=f"{__name__}:{SentinelTransport.__name__}")
