"""The pipeline: one claimer, a decode thread per core, one engine thread, one isolator, one committer.

Where images come over a network, threads that read them (FetchStage) stand between claimer and decoders.

    submit ─▶ Claimer ─▶ items ─▶ DecodeStage ─▶ Assembly ─▶ ForwardStage ─▶ finished ─▶ CommitStage
             1 UPDATE │           a thread/core   2 buffers    the device                1 transaction
                      ├─▶ suspects ─▶ IsolateStage (a child process, one at a time) ──▶ finished
                      └─▶ pinned ─▶ PinStage (loads the version that a job names) ─▶ items | suspects

An item is in one stage's hands at a time; others of the same image may follow it (``sharing.py``). The
outside stops handing in messages while there is no ``room``; that bounds what waits before the claimer, and
the queues after it are bounded. A stage that fails in a way that has no name ends the process
(``on_fatal``): its jobs return to the queue as a crashed worker's do.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from uuid import UUID

from alexq_schema.names import Lane
from alexq_worker.pipeline.assembly import Assembly
from alexq_worker.pipeline.claim import Claimer
from alexq_worker.pipeline.commit import CommitStage, OnCommitted
from alexq_worker.pipeline.decode import DecodeStage
from alexq_worker.pipeline.fetch import AHEAD_BYTES, ByteBudget, FetchStage
from alexq_worker.pipeline.flow import Ended, Flow, Forwarded, Item, ItemQueue, Reply
from alexq_worker.pipeline.forward import ForwardStage
from alexq_worker.pipeline.isolate import IsolateStage
from alexq_worker.pipeline.past import Past
from alexq_worker.pipeline.pins import Pinned, PinStage
from alexq_worker.pipeline.policy import LAST, Rank
from alexq_worker.pipeline.ports import ImageLoader, Isolation, JobTable
from alexq_worker.pipeline.residents import Residents
from alexq_worker.pipeline.ticket import Summary, Ticket

BATCHES_IN_FLIGHT = 3
"""One filling, one on the device, one being committed."""


class Pipeline:
    """Takes job ids, returns futures. ``start``, ``drain`` and ``stop`` may be called twice."""

    def __init__(
        self,
        *,
        table: JobTable,
        images: ImageLoader,
        residents: Residents,
        isolation: Isolation,
        max_batch: int,
        decode_threads: int,
        fetch_threads: int,
        on_committed: OnCommitted,
        on_room: Callable[[], None],
        on_fatal: Callable[[Exception], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare; no thread runs before :meth:`start`.

        Args:
            residents: the model versions that serve; others may be switched to at any time.
            fetch_threads: images read at once, where the store is remote.
            on_committed: called after each commit and before its tasks resolve.
            on_room: called, from any thread, when a lane has more ``room``.
            on_fatal: called when a stage broke; must end the process.
        """
        self._flow = Flow(capacity=BATCHES_IN_FLIGHT * max_batch, on_room=on_room, clock=clock)
        self._on_fatal = on_fatal
        self._assembly: Assembly[Item] = Assembly(residents.active)
        self._tickets: queue.SimpleQueue[Ticket | None] = queue.SimpleQueue()
        self._isolation = isolation
        self._suspects: queue.SimpleQueue[Item | None] = queue.SimpleQueue()
        self._pinned: Pinned = queue.SimpleQueue()
        self._items: ItemQueue = queue.PriorityQueue()  # bounded by the capacities of the lanes
        finished: queue.Queue[Forwarded | Ended | None] = queue.Queue(self._flow.capacity)
        self._claimed: ItemQueue = queue.PriorityQueue() if images.is_remote else self._items
        budget = ByteBudget(AHEAD_BYTES)
        fetch = FetchStage(self._flow, table, images, residents, self._claimed, self._items, budget)
        self._fetchers = [
            self._thread(f"alexq-fetch-{n}", fetch.run) for n in range(fetch_threads * images.is_remote)
        ]
        decode = DecodeStage(
            self._flow, table, images, residents, self._items, self._assembly, finished, budget.give
        )
        past = Past(self._flow, table, finished)
        self._claimer = self._thread(
            "alexq-claim",
            Claimer(
                self._flow,
                table,
                residents,
                self._tickets,
                self._claimed,
                self._suspects,
                self._pinned,
                past,
            ).run,
        )
        pins = PinStage(
            self._flow, table, residents, self._pinned, self._claimed, self._suspects, finished, past
        )
        self._loader = self._thread("alexq-pins", pins.run)
        self._decoders = [self._thread(f"alexq-decode-{n}", decode.run) for n in range(decode_threads)]
        self._isolator = self._thread(
            "alexq-isolate",
            IsolateStage(self._flow, table, isolation, residents, self._suspects, finished).run,
        )
        self._device = self._thread(
            "alexq-engine", ForwardStage(self._flow, residents, self._assembly, finished).run
        )
        self._committer = self._thread(
            "alexq-commit", CommitStage(self._flow, table, finished, on_committed).run
        )
        self._stopper = self._thread("alexq-stop", self._end_stages_in_order)

    def _thread(self, name: str, run: Callable[[], None]) -> threading.Thread:
        def guarded() -> None:
            try:
                run()
            except Exception as error:  # noqa: BLE001 - the process loop
                self._on_fatal(error)

        return threading.Thread(target=guarded, name=name, daemon=True)

    def start(self) -> None:
        """Start the threads."""
        if self._claimer.ident is None:
            for thread in (
                self._committer,
                self._device,
                *self._decoders,
                *self._fetchers,
                self._isolator,
                self._loader,
                self._claimer,
                self._stopper,
            ):
                thread.start()

    def submit(
        self, job_ids: Sequence[UUID], lane: Lane, future: Future[Summary] | None = None
    ) -> Future[Summary]:
        """Hand in job ids; the future resolves when each is committed, not to be done, or given back.

        Args:
            future: one that somebody waits for already; by default a new one.
        """
        ticket = Ticket(job_ids, lane, future)
        with self._flow.lock:
            if self._flow.draining.is_set():
                ticket.give_back_all()
            else:
                self._flow.enter(lane, len(ticket.job_ids))
                self._tickets.put(ticket)
        return ticket.future

    def until_answered(self, what: str, call: Callable[[], Reply]) -> Reply | None:
        """Return what ``call`` returns, trying again while a service does not answer.

        Returns:
            None when draining began first.
        """
        return self._flow.until_answered(what, call, even_draining=False)

    @property
    def capacity(self) -> int:
        """Jobs of one lane in flight at which it has no ``room``."""
        return self._flow.capacity

    def room(self, lane: Lane) -> int:
        """Return how many more jobs of this lane should be handed in."""
        return self._flow.room(lane)

    def in_flight(self, lane: Lane) -> int:
        """Return how many jobs of this lane are in flight."""
        return self._flow.in_flight_of(lane)

    @property
    def is_draining(self) -> bool:
        """Return whether :meth:`drain` was called."""
        return self._flow.draining.is_set()

    @property
    def accepted(self) -> int:
        """Job ids handed in so far."""
        return self._flow.accepted

    @property
    def is_idle(self) -> bool:
        """Return whether nothing is in flight or asked of a service, and more would be taken."""
        return self._flow.is_idle

    def stalled(self) -> tuple[float, str]:
        """Return what has not got on for longest: for how many seconds, and what, in words."""
        return self._flow.stalled()

    def drain(self) -> None:
        """Begin to stop, without waiting: finish what is decoded, give back the rest. Signal-safe."""
        with self._flow.lock:
            self._flow.draining.set()
            self._tickets.put(None)

    def stop(self, grace_s: float) -> bool:
        """Drain, and wait for it; returns whether everything was done within ``grace_s``."""
        self.drain()
        if self._stopper.ident is None:
            return True
        self._stopper.join(grace_s)
        return not self._stopper.is_alive()

    def _end_stages_in_order(self) -> None:
        self._claimer.join()
        self._isolation.stop()
        self._pinned.put(None)
        self._loader.join()
        self._suspects.put(None)
        for threads, waiting in ((self._fetchers, self._claimed), (self._decoders, self._items)):
            for number, _ in enumerate(threads):
                waiting.put((Rank(LAST, number), None))
            for thread in threads:
                thread.join()
        self._isolator.join()
        self._assembly.close()
        self._device.join()
        self._committer.join()
