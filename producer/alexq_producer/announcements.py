"""Hearing from workers that jobs have finished: Redis pub/sub, one channel a producer.

An announcement is a hint, never the truth: the listener's caller reads the jobs from the database,
and asks it anyway from time to time, so that a lost announcement or a dead Redis costs time only.

One thread, started by the first who waits, owns the subscription; it is the only one that touches the
connection. What one announcement names it reads in one statement, for all who wait for any of it at that
moment, and hands each their jobs. Who is busy is told ids only, and reads later: results that nobody
takes do not pile up.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from uuid import UUID

import redis
from redis.client import PubSub

from alexq_schema.announcing import announce
from alexq_schema.broker import connect
from alexq_schema.errors import MessageError, UnavailableError
from alexq_schema.job import Job
from alexq_schema.messages import Finished
from alexq_schema.names import finished_channel

LOOK_EVERY_S = 0.25
"""Pause after which the thread sees that another producer's submission is waited for."""

FIRST_RETRY_S = 0.5
LAST_RETRY_S = 5.0
"""Pauses, each twice the last, before Redis and the database are asked again while Redis is away."""

log = logging.getLogger("alexq.producer")


class Announcements:
    """Opens listeners; one connection and one thread for all of them."""

    def __init__(
        self, broker_url: str, timeout_s: float, own: UUID, read: Callable[[Sequence[UUID]], list[Job]]
    ) -> None:
        """Prepare.

        Args:
            own: any submission id of this producer; all of them share a channel.
            read: returns those of these jobs that are terminal, in completion order.
        """
        self.read = read
        self._redis = connect(broker_url, socket_connect_timeout=timeout_s, socket_timeout=timeout_s)
        self._own = finished_channel(own)
        self._changed = threading.Condition()
        self._wanted: Counter[str] = Counter()
        self._heard: set[str] = set()  # channels whose subscription Redis has confirmed
        self._listeners: defaultdict[UUID, list[Listener]] = defaultdict(list)
        self._thread: threading.Thread | None = None
        self._closing = threading.Event()

    def announce(self, finished: Iterable[tuple[UUID | None, UUID]]) -> None:
        """Tell who waits that these (submission id, job id) have ended; a silent Redis is only logged."""
        try:
            announce(self._redis, finished)
        except (redis.RedisError, OSError) as error:
            log.warning("could not announce finished jobs: %s", error)

    @contextmanager
    def of(
        self, waited_for: UUID, job_ids: Collection[UUID], woken: Callable[[], None] = lambda: None
    ) -> Iterator[Listener]:
        """Open a listener: what is announced of these jobs from now on will be heard.

        Args:
            waited_for: their submission's id, or a lone job's own.
            woken: called, in another thread, whenever there is something to take: for a caller that has no
                thread to wait with.
        """
        channel = finished_channel(waited_for)
        listener = Listener(self, channel, woken)
        with self._changed:
            self._wanted[channel] += 1
            for job_id in job_ids:
                self._listeners[job_id].append(listener)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="alexq-announcements", daemon=True)
                self._thread.start()
            self._changed.wait_for(lambda: channel in self._heard, FIRST_RETRY_S)
        try:
            yield listener
        finally:
            with self._changed:
                self._wanted[channel] -= 1
                for job_id in job_ids:
                    listeners = self._listeners[job_id]
                    listeners.remove(listener)
                    if not listeners:
                        del self._listeners[job_id]

    def hears(self, channel: str) -> bool:
        """Return whether announcements on this channel arrive now."""
        return channel in self._heard

    def close(self) -> None:
        """Close every connection. May be called twice."""
        self._closing.set()
        if self._thread is None:
            self._redis.close()
        else:  # it closes what it reads from
            self._thread.join(2 * LOOK_EVERY_S)

    def _run(self) -> None:
        retry_s = FIRST_RETRY_S
        pubsub = self._redis.pubsub()  # type: ignore[no-untyped-call]
        while not self._closing.is_set():
            try:
                self._subscribe_as_wanted(pubsub)
                self._take(pubsub.get_message(timeout=LOOK_EVERY_S))
                retry_s = FIRST_RETRY_S
            except (redis.RedisError, OSError):
                self._lose(pubsub)
                self._closing.wait(retry_s)
                retry_s = min(2 * retry_s, LAST_RETRY_S)
            except Exception:  # the process loop: who waits would never be told to ask
                log.exception("hearing of finished jobs failed; it goes on")
                self._lose(pubsub)
                self._closing.wait(LAST_RETRY_S)
        with suppress(redis.RedisError, OSError):
            pubsub.close()
        self._redis.close()

    def _subscribe_as_wanted(self, pubsub: PubSub) -> None:
        with self._changed:
            wanted = {self._own, *(channel for channel, count in self._wanted.items() if count)}
        asked = {channel.decode() for channel in pubsub.channels}
        if new := wanted - asked:
            pubsub.subscribe(*new)
        if gone := asked - wanted:
            with self._changed:
                self._heard -= gone
                for channel in gone:
                    del self._wanted[channel]
            pubsub.unsubscribe(*gone)  # type: ignore[no-untyped-call]

    def _take(self, message: dict[str, object] | None) -> None:
        if message is None:
            return
        if message["type"] == "subscribe":
            assert isinstance(message["channel"], bytes)
            with self._changed:  # from the confirmation on nothing is missed
                self._heard.add(message["channel"].decode())
                self._changed.notify_all()
        elif message["type"] == "message":
            assert isinstance(message["data"], bytes)
            try:
                self._tell(Finished.parse_json(message["data"]).job_ids)
            except MessageError:  # of a newer release, perhaps: ask the database
                self._tell_all_to_ask()

    def _tell(self, job_ids: Sequence[UUID]) -> None:
        heard_by: defaultdict[Listener, list[UUID]] = defaultdict(list)
        with self._changed:
            for job_id in job_ids:
                for listener in self._listeners.get(job_id, ()):
                    heard_by[listener].append(job_id)
        waited_for = {listener: set(some) for listener, some in heard_by.items() if listener.is_waiting}
        jobs: list[Job] = []
        try:
            jobs = self.read(list(set().union(*waited_for.values())))
        except UnavailableError:  # each asks, and raises it in its own thread
            waited_for.clear()
        for listener, some in heard_by.items():
            if mine := waited_for.get(listener):
                listener.tell([job for job in jobs if job.job_id in mine])
            else:
                listener.tell(some)

    def _lose(self, pubsub: PubSub) -> None:
        """The connection broke: what is announced meanwhile is missed, and is asked for when it is back."""
        with self._changed:
            self._heard.clear()
        with suppress(redis.RedisError, OSError):
            pubsub.close()
        self._tell_all_to_ask()

    def _tell_all_to_ask(self) -> None:
        with self._changed:
            everyone = {listener for some in self._listeners.values() for listener in some}
        for listener in everyone:
            listener.tell([])


class Listener:
    """One who waits; used by one thread at a time."""

    def __init__(self, announcements: Announcements, channel: str, woken: Callable[[], None]) -> None:
        self._announcements = announcements
        self._channel = channel
        self._woken = woken
        self._retry_s = FIRST_RETRY_S
        self._told: queue.SimpleQueue[Sequence[Job | UUID]] = queue.SimpleQueue()
        self.is_waiting = False

    def tell(self, finished: Sequence[Job | UUID]) -> None:
        """Note that these jobs have finished, or, with none, that something may have been missed."""
        self._told.put(finished)
        self._woken()

    def next(self, timeout_s: float) -> list[Job]:
        """Return jobs that were announced: of all announcements there are, after waiting for one.

        Returns:
            Empty after ``timeout_s`` of silence, or sooner when something may have been missed.

        Raises:
            DatabaseUnavailableError: the database does not answer.
        """
        with self.waiting():
            jobs, unread = self.take(self.patience_s(timeout_s))
        return jobs + self._announcements.read(unread)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Wait within the context, with :meth:`take` or for being woken: finished jobs are read meanwhile."""
        self.is_waiting = True
        try:
            yield
        finally:
            self.is_waiting = False

    def patience_s(self, timeout_s: float) -> float:
        """Return how long to wait for an announcement, at most ``timeout_s``, before asking the database."""
        if self._announcements.hears(self._channel):
            self._retry_s = FIRST_RETRY_S
            return timeout_s
        wait_s = min(self._retry_s, timeout_s)
        self._retry_s = min(2 * self._retry_s, LAST_RETRY_S)
        return wait_s

    def take(self, wait_s: float = 0.0) -> tuple[list[Job], list[UUID]]:
        """Return what was announced, after waiting up to ``wait_s`` for the first announcement.

        Returns:
            Jobs, and the ids of those that were not read, because nobody waited then.
        """
        finished: list[Job | UUID] = []
        with suppress(queue.Empty):
            finished += self._told.get(timeout=wait_s) if wait_s > 0 else self._told.get_nowait()
            while finished:
                finished += self._told.get_nowait()
        unread = [one for one in finished if isinstance(one, UUID)]
        return [one for one in finished if not isinstance(one, UUID)], unread
