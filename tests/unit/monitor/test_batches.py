"""Batches from jobs: jobs of size s, divided by s."""

from __future__ import annotations

from uuid import UUID

import pytest

from alexq_monitor.batches import summarise
from alexq_schema.db.dashboard import Served

ONE, OTHER = UUID(int=1), UUID(int=2)


def served(batch_size: int, worker: UUID = ONE, forward_s: float = 0.1) -> Served:
    return Served(
        batch_size=batch_size, waited_s=1.0, decode_s=0.01, forward_s=forward_s, held_s=0.3,
        worker_id=worker,
    )  # fmt: skip


def test_the_number_of_batches_is_exact() -> None:
    jobs = 64 * [served(64)] + 64 * [served(64)] + 5 * [served(5, OTHER)] + [served(1, OTHER)]
    found = summarise(jobs)
    assert found.jobs == 134
    assert found.batches == pytest.approx(4)
    assert sum(number for _, number in found.histogram) == pytest.approx(4)
    assert dict(found.histogram)["61–64"] == pytest.approx(2)
    assert len(found.histogram) == 16


def test_small_sizes_have_a_column_each() -> None:
    found = summarise(3 * [served(3)] + [served(1)])
    assert found.histogram == [("1", pytest.approx(1)), ("2", 0), ("3", pytest.approx(1))]


def test_fill_is_set_against_time() -> None:
    found = summarise([served(1, forward_s=0.02), *(32 * [served(32, forward_s=0.16)])])
    assert [(group.name, group.mean_size) for group in found.by_size] == [("1–2", 1), ("31–32", 32)]
    assert [group.images_per_s for group in found.by_size] == [pytest.approx(50), pytest.approx(200)]


def test_workers_are_told_apart_the_busiest_first() -> None:
    found = summarise(2 * [served(2)] + 3 * [served(3, OTHER)])
    assert [(worker, group.jobs) for worker, group in found.by_worker] == [(OTHER, 3), (ONE, 2)]


def test_stages_add_up_to_the_time_of_a_job() -> None:
    found = summarise([served(1)])
    assert sum(stage.median_s for stage in found.stages) == pytest.approx(1.3)


def test_without_jobs_there_is_nothing() -> None:
    found = summarise([])
    assert (found.jobs, found.batches, found.histogram, found.stages, found.by_size) == (0, 0, [], [], [])
