"""What the sweeper keeps between its rounds: who may sweep now, and whether Redis still has its data.

The lease is in SQL because the sweeper's work is: while Redis is away, jobs of dead workers must
return all the same.
"""

from __future__ import annotations

from uuid import UUID

from sqlalchemy import Connection, or_, select, update

from alexq_schema.db.clock import db_now
from alexq_schema.db.tables import Sweeper


def hold(connection: Connection, worker_id: UUID, *, for_s: float) -> bool:
    """Take the lease for ``for_s`` seconds, unless another worker has it; return whether it is ours."""
    is_free = or_(Sweeper.held_until.is_(None), Sweeper.held_until < db_now(), Sweeper.holder == worker_id)
    statement = update(Sweeper).where(is_free).values(holder=worker_id, held_until=db_now(for_s))
    return connection.execute(statement).rowcount == 1


def let_go(connection: Connection, worker_id: UUID) -> None:
    """Give the lease back, if it is still ours."""
    connection.execute(update(Sweeper).where(Sweeper.holder == worker_id).values(held_until=None))


def queue_epoch(connection: Connection) -> str | None:
    """Return the epoch that Redis was last seen in; None before the first."""
    return connection.execute(select(Sweeper.queue_epoch)).scalar_one()


def begin_queue_epoch(connection: Connection, epoch: str, *, is_first: bool) -> None:
    """Note that Redis is in a new epoch: unless it is the first, what was published before is lost."""
    values = {"queue_epoch": epoch} if is_first else {"queue_epoch": epoch, "queue_epoch_began_at": db_now()}
    connection.execute(update(Sweeper).values(values))
