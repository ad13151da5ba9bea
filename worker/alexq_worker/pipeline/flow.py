"""What the stages share: the items that pass through, how many there are, and whether to stop."""

from __future__ import annotations

import logging
import math
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from operator import itemgetter
from typing import TypeVar
from uuid import UUID

from alexq_schema.errors import AlexqError, DatabaseFullError, UnavailableError
from alexq_schema.names import Lane
from alexq_schema.options import Options
from alexq_schema.work import Claim, Outcome
from alexq_worker.pipeline.policy import Rank
from alexq_worker.pipeline.ports import Answer, JobTable, TopK
from alexq_worker.pipeline.residents import Resident
from alexq_worker.pipeline.sharing import Sharing
from alexq_worker.pipeline.ticket import Ticket

RETRY_S = 1.0
"""Pause before a service that did not answer is asked again."""

WARN_EVERY_S = 5.0
"""An outage is logged this often, however many wait for its end."""

Reply = TypeVar("Reply")

log = logging.getLogger("alexq.pipeline")


@dataclass(slots=True)
class Item:
    """A claimed job on its way; in one stage's hands at a time."""

    claim: Claim
    ticket: Ticket
    expires_at: float | None = None
    """Its deadline by this process's clock, if it has one."""
    claimed_at: float = 0.0
    """By this process's clock, as the next."""
    fetched: bytes | AlexqError | None = None
    """Its image, read ahead, or why it could not be; None: the decoder reads it."""
    resident: Resident | None = None
    """The version that it is pinned to, taken for it; None: whichever is active when it is decoded."""
    options: Options | None = None
    """How it is to be classified, once somebody has read that; None: as ever."""
    decoded_at: float = 0.0
    decode_s: float = 0.0
    shared_as: Hashable = None
    """Under what those of the same image find it; None: nobody follows it."""
    followers: list[Item] = field(default_factory=list)
    """Those that get what becomes of it; see :mod:`alexq_worker.pipeline.sharing`."""

    @property
    def entries(self) -> int:
        """Pictures that the model sees of it."""
        return 1 if self.options is None else self.options.entries


ItemQueue = queue.PriorityQueue[tuple[Rank, Item | None]]
"""Claimed items in the order of their rank; None ends one reader and ranks last."""


def take_all(items: ItemQueue) -> list[Item]:
    """Return what waits in a queue, in the order of rank; its readers' ends stay."""
    found: list[Item] = []
    with suppress(queue.Empty):
        while True:
            place, item = items.get_nowait()
            if item is None:
                items.put((place, None))
                return found
            found.append(item)
    return found


def with_followers(items: Iterable[Item]) -> list[Item]:
    """Return the items, each before those that follow it; nobody may join them any more."""
    return [one for item in items for one in (item, *item.followers)]


@dataclass(frozen=True, slots=True)
class Forwarded:
    """A batch that went through the device; made into outcomes by the committer, off the device's thread."""

    items: list[Item]
    resident: Resident
    """The version that classified it."""
    top: TopK | Sequence[Answer]
    """The best classes of each, or what each wanted."""
    limit: int
    """Images that it might have had."""
    began_at: float
    forward_s: float


@dataclass(frozen=True, slots=True)
class Ended:
    """An item whose outcome is known without the model."""

    item: Item
    outcome: Outcome

    @property
    def items(self) -> Sequence[Item]:
        """The one item, as a batch has several."""
        return (self.item,)


class Flow:
    """Counts the job ids in flight; knows when one last got on and whether to stop. For all threads."""

    def __init__(
        self, *, capacity: int, on_room: Callable[[], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Prepare.

        Args:
            capacity: ids in flight at which a lane has no more room.
        """
        self.capacity = capacity
        self.clock = clock
        self.lock = threading.RLock()  # reentrant: a signal handler may drain
        self._in_flight = dict.fromkeys(Lane, 0)
        self.accepted = 0
        self._waits = 0  # for other processes, now
        self._steps: dict[object, tuple[float, str, tuple[object, ...]]] = {}  # since when what is being done
        self.held: set[UUID] = set()  # claimed and not yet left; the claimer adds, any stage discards
        self.sharing = Sharing()
        self.draining = threading.Event()
        self._on_room = on_room
        self._progress_at = clock()
        self._warned_at = -math.inf

    @property
    def in_flight(self) -> int:
        """Job ids in flight, of all lanes."""
        return sum(self._in_flight.values())

    def in_flight_of(self, lane: Lane) -> int:
        """Return the job ids in flight of one lane."""
        return self._in_flight[lane]

    def room(self, lane: Lane) -> int:
        """Return how many more jobs of this lane should be handed in."""
        return 0 if self.draining.is_set() else max(0, self.capacity - self._in_flight[lane])

    def enter(self, lane: Lane, count: int) -> None:
        """Note that ``count`` more ids are in flight."""
        with self.lock:
            if self.in_flight == 0:
                self._progress_at = self.clock()
            self._in_flight[lane] += count
            self.accepted += count

    def let_go(self, items: Sequence[Item]) -> None:
        """Note that these jobs are settled."""
        with self.lock:
            self.held.difference_update(item.claim.job_id for item in items)
        for lane, count in Counter(item.ticket.lane for item in items).items():
            self.leave(lane, count)

    def release(self, table: JobTable, leaving: Sequence[Item]) -> None:
        """Give claimed jobs back: their rows to the queue, untouched, and their messages to the broker."""
        self.sharing.close(leaving)
        items = with_followers(leaving)
        claims = [item.claim for item in items]
        self.until_answered("release", lambda: table.release(claims), even_draining=True)
        for item in items:
            item.ticket.give_back()
        self.let_go(items)

    def leave(self, lane: Lane, count: int) -> None:
        """Note that ``count`` ids are no longer in flight."""
        with self.lock:
            self._in_flight[lane] -= count
            self._progress_at = self.clock()
        self._on_room()

    @property
    def is_idle(self) -> bool:
        """Return whether nothing is in flight or asked for, and more would be taken."""
        return self.in_flight == 0 and self._waits == 0 and not self.draining.is_set()

    @contextmanager
    def step(self, what: str, *of: object) -> Iterator[None]:
        """Note that something is done that must not take long.

        Args:
            of: what belongs into the braces of ``what``; put there only if somebody asks.
        """
        token = object()
        with self.lock:
            self._steps[token] = (self.clock(), what, of)
        try:
            yield
        finally:
            with self.lock:
                del self._steps[token]

    def stalled(self) -> tuple[float, str]:
        """Return what has not got on for longest: for how many seconds, and what, in words.

        Time spent waiting for the database does not count: it is not this process that hangs.
        """
        with self.lock:
            since = list(self._steps.values())
            if not since and self.in_flight and not self._waits:
                since.append((self._progress_at, "{} jobs in flight", (self.in_flight,)))
            if not since:
                return 0.0, "nothing"
            started, what, of = min(since, key=itemgetter(0))
            return self.clock() - started, what.format(*of) if of else what

    def until_answered(self, what: str, call: Callable[[], Reply], *, even_draining: bool) -> Reply | None:
        """Return what ``call`` returns, trying again while a service does not answer.

        Returns:
            None when draining began first and ``even_draining`` is false.
        """
        with ExitStack() as steps:
            is_stuck = False
            while True:
                try:
                    with self.waiting():
                        return call()
                except UnavailableError as error:
                    self.warn(what, error)
                    # An outage is waited out. A full disk may be this host's own: its supervisor must know.
                    if isinstance(error, DatabaseFullError) and not is_stuck:
                        is_stuck = True
                        steps.enter_context(self.step(f"{what}: {error}"))
                    with self.waiting():
                        if even_draining:
                            time.sleep(RETRY_S)
                        elif self.draining.wait(RETRY_S):
                            return None

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Note that another process is waited for, under limits of its own: its time is not a stall's."""
        with self.lock:
            self._waits += 1
        try:
            yield
        finally:
            with self.lock:
                self._waits -= 1
                self._progress_at = self.clock()

    def warn(self, what: str, error: UnavailableError) -> None:
        """Log that ``what`` waits for the end of an outage, unless that was said a moment ago."""
        with self.lock:
            is_due = self.clock() - self._warned_at >= WARN_EVERY_S
            if is_due:
                self._warned_at = self.clock()
        if is_due:
            log.warning("%s waits: %s", what, error)
