"""The model versions that are in memory, and which of them new jobs go to.

A picture is decoded for one version and classified by it: whoever decodes takes the version first
(``take``) and whoever is done with the picture leaves it (``leave``). So a switch needs nobody to wait. From
it on pictures are decoded for the new version; those of the old one, of another size perhaps, finish where
they began, and the last of them closes the old one. No batch holds pictures of two.

Threads: any. The engine of a version that was switched from is closed by the thread that leaves it last:
nobody uses it any more.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

from alexq_schema.work import PredictionWriter
from alexq_worker.pipeline.policy import BatchPolicy
from alexq_worker.pipeline.ports import Decoder, Engine


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


class Residents:
    """Which version is active, and how many pictures each has in hand."""

    def __init__(self, active: Resident) -> None:
        """Begin with ``active``."""
        self._lock = threading.Lock()
        self._active = active
        self._in_hand: dict[Resident, int] = {active: 0}

    @property
    def active(self) -> Resident:
        """The version that new jobs go to."""
        return self._active

    def take(self) -> Resident:
        """Return the active version, for one picture."""
        with self._lock:
            self._in_hand[self._active] += 1
            return self._active

    def leave(self, resident: Resident, pictures: int = 1) -> None:
        """Note that ``pictures`` of this version are done with; close it if it has no more to come."""
        with self._lock:
            self._in_hand[resident] -= pictures
            is_over = self._is_over(resident)
        if is_over:
            resident.engine.close()

    def switch(self, new: Resident) -> None:
        """Send new jobs to ``new``; the version before it finishes what was decoded for it, and is closed."""
        with self._lock:
            old, self._active = self._active, new
            self._in_hand[new] = 0
            is_over = self._is_over(old)
        if is_over:
            old.engine.close()

    def _is_over(self, resident: Resident) -> bool:
        """With the lock held: forget a version that nobody will use any more; return whether it was one."""
        if resident is self._active or self._in_hand[resident]:
            return False
        del self._in_hand[resident]
        return True
