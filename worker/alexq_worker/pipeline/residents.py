"""The model versions that are in memory, and which of them a job goes to.

A picture is decoded for one version and classified by it: whoever decodes takes the version first
(``take``) and whoever is done with the picture leaves it (``leave``). So a switch needs nobody to wait. From
it on pictures are decoded for the new version; those of the old one, of another size perhaps, finish where
they began, and the last of them closes the old one. No batch holds pictures of two.

Beside the active one there are versions that jobs are pinned to, a few at a time: for another one the one
that was asked for least recently goes, when its last picture is done.

Threads: any. The engine of a version that is let go is closed by the thread that leaves it last:
nobody uses it any more.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence

from alexq_schema.work import PredictionWriter
from alexq_worker.pipeline.policy import BatchPolicy
from alexq_worker.pipeline.ports import Decoder, Engine

LOOK_S = 0.2
"""How often who waits for room looks whether the process drains."""


class Resident:
    """A model version in memory: what decodes for it, what classifies, and what its rows say."""

    def __init__(
        self,
        ref: str,
        model_id: int,
        *,
        decoder: Decoder,
        engine: Engine,
        labels: Sequence[str],
        max_batch: int,
    ) -> None:
        """Serve ``engine``, which is warm.

        Args:
            ref: ``name/version``.
            model_id: whom results name.
            labels: in class-index order.
        """
        self.ref = ref
        self.model_id = model_id
        self.decoder = decoder
        self.engine = engine
        self.predictions = PredictionWriter(labels)
        self.policy = BatchPolicy(min(max_batch, engine.batch_limit))


Load = Callable[[str], Resident]


class Residents:
    """Which version is active, which others there are, and how many pictures each has in hand."""

    def __init__(self, active: Resident, load: Load, limit: int) -> None:
        """Begin with ``active``.

        Args:
            load: brings ``name/version`` into memory; takes seconds, and raises what is wrong with it.
            limit: versions in memory beside the active one, at most; at least 1.
        """
        self._changed = threading.Condition()
        self._active = active
        self._load = load
        self._limit = limit
        self._pinned: OrderedDict[str, Resident] = OrderedDict()  # the last asked for is the last
        self._in_hand: dict[Resident, int] = {active: 0}

    @property
    def active(self) -> Resident:
        """The version that jobs without a pin go to."""
        return self._active

    def take(self) -> Resident:
        """Return the active version, for one picture."""
        with self._changed:
            self._in_hand[self._active] += 1
            return self._active

    def take_pinned(self, ref: str, pictures: int, stopping: threading.Event) -> Resident | None:
        """Return the version ``ref`` for so many pictures, loaded if need be; one thread calls this.

        Returns:
            None when ``stopping`` was set before there was room for it.

        Raises:
            Exception: what loading it raises.
        """
        while (resident := self._taken(ref, pictures)) is None:
            if not self._has_room(stopping):
                return None
            loaded = self._load(ref)
            with self._changed:
                self._pinned[ref] = loaded
                self._in_hand[loaded] = 0
        return resident

    def _taken(self, ref: str, pictures: int) -> Resident | None:
        with self._changed:
            resident = self._active if self._active.ref == ref else self._pinned.get(ref)
            if resident is None:
                return None
            if resident is not self._active:
                self._pinned.move_to_end(ref)
            self._in_hand[resident] += pictures
            return resident

    def _has_room(self, stopping: threading.Event) -> bool:
        """Let pinned versions go until another one fits, and wait until they are closed."""
        while True:
            with self._changed:
                if len(self._pinned) < self._limit:
                    return not stopping.is_set()
                _, oldest = self._pinned.popitem(last=False)
                is_over = self._is_over(oldest)
            if is_over:
                oldest.engine.close()
            with self._changed:
                while oldest in self._in_hand:
                    if stopping.is_set():
                        return False
                    self._changed.wait(LOOK_S)

    def leave(self, resident: Resident, pictures: int = 1) -> None:
        """Note that ``pictures`` of this version are done with; close it if it has no more to come."""
        with self._changed:
            self._in_hand[resident] -= pictures
            is_over = self._is_over(resident)
        if is_over:
            resident.engine.close()

    def switch(self, new: Resident) -> None:
        """Send new jobs to ``new``; the version before it finishes what was decoded for it, and is closed."""
        with self._changed:
            old, self._active = self._active, new
            self._in_hand[new] = 0
            is_over = self._is_over(old)
        if is_over:
            old.engine.close()

    def _is_over(self, resident: Resident) -> bool:
        """With the lock held: forget a version that nobody will use any more; return whether it was one."""
        is_wanted = resident is self._active or self._pinned.get(resident.ref) is resident
        if is_wanted or self._in_hand[resident]:
            return False
        del self._in_hand[resident]
        self._changed.notify_all()
        return True
