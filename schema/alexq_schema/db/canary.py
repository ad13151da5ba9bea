"""What a version that is tried beside the active one says, and where it disagrees."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from uuid import UUID

from sqlalchemy import Connection, func, select
from sqlalchemy.dialects import postgresql, sqlite

from alexq_schema.db.clock import db_now
from alexq_schema.db.tables import CanaryResult, Job, ModelVersion
from alexq_schema.text import storable


@dataclass(frozen=True, slots=True)
class Tried:
    """What the version says of one job."""

    job_id: UUID
    label: str | None
    probability: float | None


def add(connection: Connection, model_id: int, tried: Sequence[Tried]) -> None:
    """Keep what the version says, once for each job."""
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    statement = dialect.insert(CanaryResult).values(at=db_now(), model_id=model_id).on_conflict_do_nothing()
    rows = [
        {
            "job_id": one.job_id,
            "label": one.label and storable(one.label)[:255],
            "probability": one.probability,
        }
        for one in tried
    ]
    connection.execute(statement, rows)


@dataclass(slots=True)
class LabelReport:
    """The jobs that got one label of the active version."""

    label: str | None
    compared: int = 0
    others: Counter[str | None] = field(default_factory=Counter)
    """What the version that is tried says instead, and how often."""

    @property
    def disagreed(self) -> int:
        """Jobs of them for which it says something else."""
        return self.others.total()


def report(connection: Connection, name: str, version: str) -> list[LabelReport]:
    """Return where the version disagrees with the results, by label; the label with the most first.

    Jobs that it did itself by then do not count: it was the active one.
    """
    statement = (
        select(Job.label, CanaryResult.label.label("tried"), func.count().label("jobs"))
        .join(CanaryResult, CanaryResult.job_id == Job.id)
        .join(ModelVersion, ModelVersion.id == CanaryResult.model_id)
        .where(
            ModelVersion.name == name,
            ModelVersion.version == version,
            Job.model_id != CanaryResult.model_id,
        )
        .group_by(Job.label, CanaryResult.label)
    )
    found: dict[str | None, LabelReport] = {}
    for row in connection.execute(statement):
        of_label = found.setdefault(row.label, LabelReport(row.label))
        of_label.compared += row.jobs
        if row.tried != row.label:
            of_label.others[row.tried] += row.jobs
    return sorted(found.values(), key=lambda one: (-one.disagreed, -one.compared, one.label or ""))
