"""First stage: everything that waits is claimed in one UPDATE."""

from __future__ import annotations

import queue
from collections import Counter
from collections.abc import Sequence

from alexq_worker.pipeline.flow import Flow, Item, ItemQueue
from alexq_worker.pipeline.past import Past
from alexq_worker.pipeline.pins import Pinned
from alexq_worker.pipeline.policy import Rank, rank
from alexq_worker.pipeline.ports import JobTable
from alexq_worker.pipeline.residents import Residents
from alexq_worker.pipeline.ticket import Ticket


class Claimer:
    """Owned by one thread, which alone reads ``tickets``; None in it, or draining, ends it."""

    def __init__(
        self,
        flow: Flow,
        table: JobTable,
        residents: Residents,
        tickets: queue.SimpleQueue[Ticket | None],
        items: ItemQueue,
        suspects: queue.SimpleQueue[Item | None],
        pinned: Pinned,
        past: Past,
    ) -> None:
        self._flow = flow
        self._table = table
        self._residents = residents
        self._claimed = 0
        self._tickets = tickets
        self._items = items
        self._suspects = suspects
        self._pinned = pinned
        self._past = past

    def run(self) -> None:
        """Claim until draining begins; then give back what was not claimed."""
        while True:
            tickets = self._waiting()
            if self._flow.draining.is_set():
                self._give_back(tickets)
                return
            self._claim(tickets)

    def _waiting(self) -> list[Ticket]:
        """Return every ticket that waits, after waiting for one."""
        waiting = [self._tickets.get()]
        while not self._tickets.empty():
            waiting.append(self._tickets.get())
        return [ticket for ticket in waiting if ticket is not None]

    def _give_back(self, tickets: Sequence[Ticket]) -> None:
        for ticket in tickets:
            ticket.give_back_all()
            self._flow.leave(ticket.lane, len(ticket.job_ids))

    def _claim(self, tickets: Sequence[Ticket]) -> None:
        owner = {job_id: ticket for ticket in tickets for job_id in ticket.job_ids}
        with self._flow.lock:
            wanted = [job_id for job_id in owner if job_id not in self._flow.held]
        claims = self._flow.until_answered("claim", lambda: self._table.claim(wanted), even_draining=False)
        if claims is None:
            self._give_back(tickets)
            return
        now = self._flow.clock()
        items = [
            Item(claim, owner[claim.job_id], None if claim.left_s is None else now + claim.left_s, now)
            for claim in claims
        ]
        with self._flow.lock:
            self._flow.held.update(claim.job_id for claim in claims)
        claimed = Counter(id(item.ticket) for item in items)
        for ticket in tickets:
            ticket.start(claimed[id(ticket)])
            self._flow.leave(ticket.lane, len(ticket.job_ids) - claimed[id(ticket)])
        unpinned: list[Item] = []
        for item in items:
            if item.claim.pinned is None:
                unpinned.append(item)
            else:
                self._pinned.put((self._place(item), item))
        model_id = self._residents.active.model_id
        for item in self._flow.sharing.join(self._past.left(unpinned, model_id), model_id):
            place = self._place(item)
            if item.claim.crashes:
                self._suspects.put(item)
            else:
                self._items.put((place, item))

    def _place(self, item: Item) -> Rank:
        self._claimed += 1
        return rank(item.ticket.lane, self._claimed)
