"""What goes into a batch, and when: a pure unit, without threads or clocks of its own.

- A batch is sealed late: as soon as the device is free it takes what is ready, up to ``limit``; it
  waits only for a first picture, never for more (``size_now``).
- Interactive jobs go first, and within a lane the oldest (``rank``).
- What a batch costs is measured: seconds = a · images + b, fitted to the batches seen (``CostLine``). A job
  that cannot be done by its deadline expires before it costs a decode or a place (``is_too_late``).
- A device that runs out of memory halves ``limit`` for good.
"""

from __future__ import annotations

from typing import NamedTuple

from alexq_schema.names import Lane

_FORGET = 0.98
"""Weight of a batch against the next one: the last fifty or so decide."""


class CostLine:
    """Seconds for a batch of n images, t = a·n + b: least squares with exponential forgetting."""

    def __init__(self) -> None:
        self._weight = self._n = self._t = self._nn = self._nt = 0.0

    def observe(self, images: int, seconds: float) -> None:
        """Note what one batch took."""
        for name, value in (
            ("_weight", 1.0),
            ("_n", images),
            ("_t", seconds),
            ("_nn", images * images),
            ("_nt", images * seconds),
        ):
            setattr(self, name, _FORGET * getattr(self, name) + value)

    def estimate_s(self, images: int) -> float:
        """Return what a batch is expected to take; 0 before the first was seen."""
        if not self._weight:
            return 0.0
        mean_n, mean_t = self._n / self._weight, self._t / self._weight
        variance = self._nn / self._weight - mean_n * mean_n
        if variance < 1e-9:  # one size seen so far: the same for each image
            return mean_t / mean_n * images
        slope = max(0.0, (self._nt / self._weight - mean_n * mean_t) / variance)
        return max(0.0, mean_t + slope * (images - mean_n))


class Rank(NamedTuple):
    """The order in which jobs are served: smaller first."""

    lane: int
    number: int
    """Position among all jobs claimed so far."""


_LANES = {lane: place for place, lane in enumerate(Lane)}
LAST = len(_LANES)
"""The lane of what comes after every job."""


def rank(lane: Lane, number: int) -> Rank:
    """Return the place in the queue of the ``number``-th claimed job."""
    return Rank(_LANES[lane], number)


class BatchPolicy:
    """Owned by one pipeline; ``limit`` only falls."""

    def __init__(self, max_batch: int) -> None:
        self.limit = max_batch
        self.cost = CostLine()
        self.decode_s = 0.0
        """What a decode took lately, a moving average."""

    def size_now(self, ready: int) -> int:
        """Return how many of the ready pictures a free device takes; 0 means wait."""
        return min(ready, self.limit)

    def observe_decode(self, seconds: float) -> None:
        """Note what one decode took."""
        self.decode_s += 0.05 * (seconds - self.decode_s) if self.decode_s else seconds

    def is_too_late(self, left_s: float | None, *, is_decoded: bool) -> bool:
        """Return whether a job with ``left_s`` until its deadline can no longer be done in time.

        As few as it can take are counted, its decode and a batch of its own: who might make it may try.
        """
        if left_s is None:
            return False
        needed_s = self.cost.estimate_s(1) + (0.0 if is_decoded else self.decode_s)
        return left_s < needed_s or left_s <= 0

    def lower(self, limit: int) -> None:
        """Take no more than ``limit`` images into a batch from now on."""
        self.limit = max(1, min(self.limit, limit))
