"""Worker processes and the model versions they serve."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import Connection, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite

from alexq_schema.db.clock import db_now
from alexq_schema.db.tables import ModelVersion, Worker
from alexq_schema.job import ModelRef
from alexq_schema.names import DEFAULT_QUEUE
from alexq_schema.text import storable


@dataclass(frozen=True, slots=True)
class WorkerRow:
    """A worker that is alive."""

    id: UUID
    host: str
    pid: int
    device: str
    model: str
    """``name/version``."""
    queue: str
    """What it serves."""


@dataclass(frozen=True, slots=True)
class MemoryUse:
    """How full the memory is that a worker's model lives in."""

    used_bytes: int
    total_bytes: int


@dataclass(frozen=True, slots=True)
class Vitals:
    """What a worker's row says of it besides that it lives."""

    batch_limit: int
    """Images in one batch, at most."""
    memory: MemoryUse | None


def register_model(connection: Connection, model: ModelRef, weights_sha256: str) -> int:
    """Return the id of this model version's row, made if it was not there."""
    values = {**model.model_dump(), "weights_sha256": weights_sha256}
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    connection.execute(dialect.insert(ModelVersion).values(values).on_conflict_do_nothing())
    statement = select(ModelVersion.id).where(
        ModelVersion.name == model.name,
        ModelVersion.version == model.version,
        ModelVersion.precision == model.precision,
        ModelVersion.weights_sha256 == weights_sha256,
    )
    return connection.execute(statement).scalar_one()


def has_served(connection: Connection, name: str, version: str) -> bool:
    """Return whether any worker has ever served this version."""
    statement = select(ModelVersion.id).where(ModelVersion.name == name, ModelVersion.version == version)
    return connection.execute(statement.limit(1)).first() is not None


def register(
    connection: Connection,
    worker_id: UUID,
    *,
    host: str,
    pid: int,
    device: str,
    model_id: int,
    queue: str = DEFAULT_QUEUE,
) -> None:
    """Insert the row of a worker that is ready to take work."""
    connection.execute(
        insert(Worker).values(
            id=worker_id,
            host=host,
            pid=pid,
            device=device,
            model_id=model_id,
            queue=queue,
            started_at=db_now(),
            last_seen_at=db_now(),
        )
    )


def renew(connection: Connection, worker_id: UUID, vitals: Vitals) -> None:
    """Note that this worker makes progress, and what it takes."""
    memory = vitals.memory
    values = {
        "last_seen_at": db_now(),
        "batch_limit": vitals.batch_limit,
        "memory_used_bytes": None if memory is None else memory.used_bytes,
        "memory_total_bytes": None if memory is None else memory.total_bytes,
    }
    connection.execute(update(Worker).where(Worker.id == worker_id).values(values))


def serve(connection: Connection, worker_id: UUID, model_id: int) -> None:
    """Note which version this worker's results are made with from now on, and that it refuses none."""
    statement = update(Worker).where(Worker.id == worker_id)
    connection.execute(statement.values(model_id=model_id, refused_model=None, refused_reason=None))


def refuse(connection: Connection, worker_id: UUID, ref: str, reason: str) -> None:
    """Note that the active version ``ref`` cannot be used here, and that the one before it goes on."""
    statement = update(Worker).where(Worker.id == worker_id)
    connection.execute(statement.values(refused_model=storable(ref)[:129], refused_reason=storable(reason)))


def leave(connection: Connection, worker_id: UUID) -> None:
    """Note that this worker stopped in good order and holds nothing."""
    connection.execute(update(Worker).where(Worker.id == worker_id).values(stopped_at=db_now()))


def fall_ill(connection: Connection, worker_id: UUID, reason: str) -> None:
    """Note that this worker cannot get on and is about to end: its jobs return to the queue at once."""
    statement = update(Worker).where(Worker.id == worker_id)
    connection.execute(statement.values(unhealthy_at=db_now(), unhealthy_reason=reason[:255]))


def alive(connection: Connection, silent_after_s: float) -> list[WorkerRow]:
    """Return the workers that showed progress within ``silent_after_s``, oldest first."""
    statement = (
        select(
            Worker.id,
            Worker.host,
            Worker.pid,
            Worker.device,
            Worker.queue,
            ModelVersion.name,
            ModelVersion.version,
        )
        .join(ModelVersion)
        .where(
            Worker.stopped_at.is_(None),
            Worker.unhealthy_at.is_(None),
            Worker.last_seen_at >= db_now(-silent_after_s),
        )
        .order_by(Worker.id)
    )
    rows = connection.execute(statement)
    return [
        WorkerRow(row.id, row.host, row.pid, row.device, f"{row.name}/{row.version}", row.queue)
        for row in rows
    ]
