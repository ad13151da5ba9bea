"""One measurement: jobs/s from the database's own times, CPU time of each part, and the check."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Self
from uuid import UUID

import numpy as np
import psutil  # type: ignore[import-untyped,unused-ignore]
from sqlalchemy import func, select

from alexq_schema.db.clock import now
from alexq_schema.db.session import Database
from alexq_schema.db.tables import Job, JobEvent
from alexq_schema.job import JobState
from benchmarks.scale.load import Load, insert_ended
from benchmarks.scale.services import Services, Stage, Workers

SAMPLE_S = 0.2
DONE_S = 900.0
MIDDLE = (0.2, 0.8)
"""The part of a run that counts: workers begin apart, and the last batches are small."""
SETTLE_S = 2.0
"""Time that a held backlog runs before it counts."""


class WrongError(Exception):
    """Some job did not succeed exactly once."""


@dataclass(frozen=True)
class Plan:
    """What to measure."""

    database: str
    kind: str
    workers: int
    device_ms: float
    jobs: int
    """Handed in before the workers begin."""
    hold_s: float = 0.0
    """Keep ``jobs`` waiting for so long, and measure that; 0: measure while they are worked off."""
    ended: int = 0
    """Jobs in the table that ended yesterday."""
    traceparent: str | None = None
    """The trace that the jobs belong to."""


@dataclass(frozen=True)
class Measured:
    """What came out."""

    jobs_per_s: float
    cpu_us_per_job: Mapping[str, float]
    """Of all workers, the broker and the database's server."""
    mean_batch: float


class Cpu:
    """CPU time of groups of process trees, sampled by a thread while the context lasts."""

    def __init__(self, pids: Mapping[str, Sequence[int]]) -> None:
        self._pids = pids
        self._seen: dict[str, dict[tuple[int, float], float]] = {name: {} for name in pids}
        self._at: list[float] = []
        self._used: dict[str, list[float]] = {name: [] for name in pids}
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, name="cpu", daemon=True)

    def _run(self) -> None:
        while not self._done.wait(SAMPLE_S):
            self._sample()

    def _sample(self) -> None:
        self._at.append(time.time())
        for name, pids in self._pids.items():
            for pid in pids:
                with suppress(psutil.NoSuchProcess):
                    root = psutil.Process(pid)
                    for process in (root, *root.children(recursive=True)):
                        with suppress(psutil.NoSuchProcess):
                            times = process.cpu_times()
                            key = (process.pid, process.create_time())
                            self._seen[name][key] = times.user + times.system
            self._used[name].append(sum(self._seen[name].values()))

    def between(self, start: float, end: float) -> dict[str, float]:
        """Return each group's CPU seconds between two times of the system's clock."""
        return {
            name: float(np.interp(end, self._at, used) - np.interp(start, self._at, used))
            for name, used in self._used.items()
        }

    def __enter__(self) -> Self:
        self._sample()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        self._sample()


def measure(stage: Stage, plan: Plan) -> dict[str, Any]:
    """Run one plan on servers and workers of its own.

    Raises:
        WrongError: not every job succeeded exactly once.
        TimeoutError: the jobs did not end.
    """
    with stage.services(plan.database) as where:
        load = Load(where, plan.traceparent)
        try:
            return {**asdict(plan), **asdict(_measure(where, load, plan))}
        finally:
            load.close()


def _measure(where: Services, load: Load, plan: Plan) -> Measured:
    if plan.ended:
        with load.database.begin() as connection:
            insert_ended(connection, plan.ended)
    workers = Workers(where, plan.workers, plan.device_ms)
    with load.database.read() as connection:
        began = now(connection)
    job_ids = load.add(plan.kind, plan.jobs)
    workers.wait_ready()
    window: tuple[float, float] | None = None
    with Cpu({"workers": workers.pids, **where.pids}) as cpu:
        workers.open_gate()
        if plan.hold_s:
            with load.held_at(plan.jobs, job_ids):
                wait_for_first(load.database, began)
                where.stage.processes.sleep(SETTLE_S)
                start = time.time()
                where.stage.processes.sleep(plan.hold_s)
                window = start, time.time()
        wait_for_end(load, job_ids, began)
    rows = ended_rows(load, plan, job_ids, began)
    workers.stop()
    return summarise(rows, cpu.between, window)


def wait_for_first(database: Database, began: datetime) -> None:
    """Wait until some job has ended."""
    statement = select(Job.id).where(Job.created_at >= began, Job.finished_at.is_not(None)).limit(1)
    _until(lambda: _first(database, statement) is not None)


def wait_for_end(load: Load, job_ids: Sequence[UUID], began: datetime) -> None:
    """Wait until nothing waits in the broker, no job is open, and every row is there.

    Asks little: what costs as much as there are rows is asked only when the rest is true.
    """
    open_jobs = select(Job.id).where(Job.state.in_([JobState.QUEUED, JobState.RUNNING])).limit(1)
    rows = select(func.count()).select_from(Job).where(Job.created_at >= began)
    _until(
        lambda: (
            load.waiting_messages() == 0
            and _first(load.database, open_jobs) is None
            and _first(load.database, rows) == len(job_ids)
        )
    )


def _first(database: Database, statement: Any) -> Any:
    with database.read() as connection:
        return connection.execute(statement).scalars().first()


def _until(is_true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DONE_S
    while not is_true():
        if time.monotonic() > deadline:
            raise TimeoutError(f"the jobs had not ended after {DONE_S:.0f} s")
        time.sleep(0.2)


@dataclass(frozen=True)
class Ended:
    """When each job ended, by the system's clock, and in a batch of how many."""

    finished_at: Sequence[float]
    batch_size: Sequence[int]


def ended_rows(load: Load, plan: Plan, job_ids: Sequence[UUID], began: datetime) -> Ended:
    """Return when the jobs ended.

    Raises:
        WrongError: one is missing, did not succeed or was begun twice.
        TimeoutError: one was not answered.
    """
    statement = select(Job.id, Job.state, Job.attempt, Job.finished_at, Job.batch_size)
    with load.database.read() as connection:
        rows = connection.execute(statement.where(Job.created_at >= began)).all()
        events = connection.execute(select(func.count()).select_from(JobEvent)).scalar_one()
    wrong = [row for row in rows if row.state != JobState.SUCCEEDED or row.attempt != 1]
    if {row.id for row in rows} != set(job_ids) or wrong or events:
        raise WrongError(f"of {len(job_ids)} jobs {len(rows)} are there; {events} events; wrong: {wrong[:3]}")
    if plan.kind == "door":
        _until(lambda: load.answers() == len(job_ids))  # they come right after the commit
    return Ended([row.finished_at.timestamp() for row in rows], [row.batch_size for row in rows])


def summarise(
    rows: Ended,
    cpu_between: Callable[[float, float], dict[str, float]],
    window: tuple[float, float] | None,
) -> Measured:
    """Return rates over ``window``, or over the middle of the run."""
    at = np.array(rows.finished_at)
    start, end = window or (float(edge) for edge in np.quantile(at, MIDDLE))
    is_inside = (at > start) & (at <= end)
    count = int(is_inside.sum())
    cpu = {name: round(1e6 * used / count, 1) for name, used in cpu_between(start, end).items()}
    mean_batch = 1 / np.mean(1 / np.array(rows.batch_size)[is_inside])  # each batch counts once
    return Measured(round(count / (end - start), 1), cpu, round(float(mean_batch), 1))
