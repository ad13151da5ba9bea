"""What the last jobs tell of their batches.

A batch has no row. Each of the s jobs of a batch says that it was of s, so jobs of size s, divided by s, are
the batches of that size: exact but for the batch that the window cuts.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from alexq_schema.db.dashboard import Served

COLUMNS: Final = 16
STAGES: Final[tuple[tuple[str, Callable[[Served], float]], ...]] = (
    ("Waited in the queue", lambda one: one.waited_s),
    ("Decoded", lambda one: one.decode_s),
    ("Batch's forward pass", lambda one: one.forward_s),
    ("Between, and committed", lambda one: max(0.0, one.held_s - one.decode_s - one.forward_s)),
)
"""Name, and how long a job was in it."""


@dataclass(frozen=True, slots=True)
class Stage:
    """How long jobs were in one stage, in seconds."""

    name: str
    median_s: float
    p95_s: float


@dataclass(frozen=True, slots=True)
class Group:
    """Batches that have something in common; times are of the middle batch."""

    name: str
    jobs: int
    batches: float
    forward_s: float
    held_s: float
    """From claimed to committed."""

    @property
    def mean_size(self) -> float:
        """Images in a batch."""
        return self.jobs / self.batches

    @property
    def images_per_s(self) -> float | None:
        """Images that one forward pass takes a second."""
        return self.mean_size / self.forward_s if self.forward_s else None


@dataclass(frozen=True, slots=True)
class Batches:
    """All of it."""

    jobs: int
    batches: float
    histogram: list[tuple[str, float]]
    """Sizes, and how many batches were of them."""
    stages: list[Stage]
    by_size: list[Group]
    by_worker: list[tuple[UUID | None, Group]]


def summarise(served: Sequence[Served]) -> Batches:
    """Return what these jobs tell."""
    largest = max((one.batch_size for one in served), default=0)
    width = max(1, -(-largest // COLUMNS))
    sizes: defaultdict[int, list[Served]] = defaultdict(list)
    workers: defaultdict[UUID | None, list[Served]] = defaultdict(list)
    for one in served:
        sizes[(one.batch_size - 1) // width].append(one)
        workers[one.worker_id].append(one)
    columns = range(-(-largest // width)) if largest else range(0)
    return Batches(
        jobs=len(served),
        batches=_batches(served),
        histogram=[(_sizes(column, width), _batches(sizes[column])) for column in columns],
        stages=[Stage(name, *_middle_and_p95([of(one) for one in served])) for name, of in STAGES]
        if served
        else [],
        by_size=[_group(_sizes(column, width), sizes[column]) for column in columns if sizes[column]],
        by_worker=sorted(
            ((worker, _group("", some)) for worker, some in workers.items()),
            key=lambda pair: -pair[1].jobs,
        ),
    )


def _sizes(column: int, width: int) -> str:
    first, last = column * width + 1, (column + 1) * width
    return f"{first}" if width == 1 else f"{first}–{last}"


def _batches(served: Sequence[Served]) -> float:
    return sum(1 / one.batch_size for one in served)


def _group(name: str, served: Sequence[Served]) -> Group:
    return Group(
        name=name,
        jobs=len(served),
        batches=_batches(served),
        forward_s=_middle_and_p95([one.forward_s for one in served])[0],
        held_s=_middle_and_p95([one.held_s for one in served])[0],
    )


def _middle_and_p95(numbers: list[float]) -> tuple[float, float]:
    ordered = sorted(numbers)
    return ordered[len(ordered) // 2], ordered[min(len(ordered) - 1, len(ordered) * 95 // 100)]
