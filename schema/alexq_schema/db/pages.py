"""What the HTTP gateway reads: one tenant's jobs and submissions, page by page.

A page begins after the last row of the one before (keyset), so that a late page costs no more than the first
and rows that come meanwhile shift nothing. ``tenant`` None stands for a gateway without API keys: everything.

A tenant's jobs are reached through its submissions, so that others' cost nothing, however many they are.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import ColumnElement, Connection, Select, and_, func, join, or_, select, true

from alexq_schema.db import tallies
from alexq_schema.db.clock import db_now
from alexq_schema.db.rows import among, is_in, is_still_in, unindexed
from alexq_schema.db.tables import Job, ModelVersion, Submission, Worker
from alexq_schema.db.tallies import Handed, Tally
from alexq_schema.job import JobState, ModelRef


@dataclass(frozen=True, slots=True)
class JobFilter:
    """Which jobs to list; None stands for any."""

    state: JobState | None = None
    label: str | None = None
    model: tuple[str, str] | None = None
    """Name and version."""
    submission_id: UUID | None = None
    created_after: datetime | None = None
    created_before: datetime | None = None

    def conditions(self, *, finds: bool) -> list[ColumnElement[bool]]:
        """Return what a job's row must fulfil.

        Args:
            finds: whether rows may be found by their state or label; else they are found in another way.
        """
        wanted: list[ColumnElement[bool]] = []
        if self.state is not None:
            wanted.append(is_in(self.state) if finds else is_still_in(self.state))
        if self.label is not None:
            wanted.append((Job.label if finds else unindexed(Job.label)) == self.label)
        if self.model is not None:
            name, version = self.model
            models = select(ModelVersion.id).where(ModelVersion.name == name, ModelVersion.version == version)
            wanted.append(Job.model_id.in_(models))
        if self.submission_id is not None:
            wanted.append(Job.submission_id == self.submission_id)
        if self.created_after is not None:
            wanted.append(Job.created_at > self.created_after)
        if self.created_before is not None:
            wanted.append(Job.created_at < self.created_before)
        return wanted


class Place(NamedTuple):
    """Where a job stands in a list."""

    submission_id: UUID | None
    job_id: UUID


def _is_theirs(tenant: str | None) -> ColumnElement[bool]:
    """Return the condition on a job that it is this tenant's: that its submission is."""
    if tenant is None:
        return true()
    owner = select(Submission.tenant).where(Submission.id == Job.submission_id).correlate(Job)
    return owner.scalar_subquery() == tenant


def jobs(
    connection: Connection, tenant: str | None, wanted: JobFilter, *, after: Place | None, limit: int
) -> list[Place]:
    """Return the jobs that match, of the page that follows ``after``.

    Newest first; a tenant's: those of its newest submission first, and of each the last first.
    """
    if tenant is not None:
        statement = _of_tenant(connection.dialect.name, tenant, wanted, after, limit)
    else:
        statement = select(Job.submission_id, Job.id).where(*wanted.conditions(finds=True))
        if after is not None:
            statement = statement.where(Job.id < after.job_id)
        statement = statement.order_by(Job.id.desc()).limit(limit)
    return [Place(*row) for row in connection.execute(statement)]


def _of_tenant(
    dialect: str, tenant: str, wanted: JobFilter, after: Place | None, limit: int
) -> Select[UUID | None, UUID]:
    """Return the statement that goes through a tenant's submissions, and through the jobs of each."""
    conditions = wanted.conditions(finds=False)
    is_later: ColumnElement[bool] = true()
    if after is not None:
        is_later = Submission.id <= after.submission_id
        conditions.append(or_(Submission.id < after.submission_id, Job.id < after.job_id))
    if dialect == "sqlite":
        job_id: ColumnElement[UUID] = Job.id.expression
        both = join(Submission, Job, and_(Job.submission_id == Submission.id, *conditions))
    else:
        # PostgreSQL would scan all jobs where it thinks that a submission has many of them. In this form
        # there is one way only: the end of a range of the index that has this order.
        its_jobs = (
            select(Job.id)
            .where(Job.submission_id >= Submission.id, Job.submission_id <= Submission.id, *conditions)
            .order_by(Job.submission_id.desc(), Job.id.desc())
            .limit(limit)
            .correlate(Submission)
            .lateral()
        )
        job_id = its_jobs.c.id
        both = join(Submission, its_jobs, true())
    return (
        select(Submission.id, job_id)
        .select_from(both)
        .where(Submission.tenant == tenant, is_later)
        .order_by(Submission.id.desc(), job_id.desc())
        .limit(limit)
    )


def visible_jobs(connection: Connection, tenant: str | None, job_ids: Sequence[UUID]) -> set[UUID]:
    """Return those of ``job_ids`` that this tenant may see."""
    statement = select(Job.id).where(among(Job.id, "b_ids"), _is_theirs(tenant))
    return set(connection.execute(statement, {"b_ids": job_ids}).scalars())


def visible_images(connection: Connection, tenant: str | None, keys: Collection[str]) -> set[str]:
    """Return those image keys that a job of this tenant has, or, without tenants, all."""
    if tenant is None:
        return set(keys)
    statement = select(Job.image_key).where(among(Job.image_key, "b_keys"), _is_theirs(tenant)).distinct()
    return set(connection.execute(statement, {"b_keys": list(keys)}).scalars())


def submission(
    connection: Connection, tenant: str | None, submission_id: UUID
) -> tuple[Handed, Tally] | None:
    """Return a submission of this tenant and how far it is, or None."""
    found = _submissions(connection, tenant, Submission.id == submission_id, limit=1)
    return found[0] if found else None


def submissions(
    connection: Connection, tenant: str | None, *, after: UUID | None, limit: int
) -> list[tuple[Handed, Tally]]:
    """Return submissions and how far they are, newest first; of the page that follows ``after``."""
    return _submissions(connection, tenant, true() if after is None else Submission.id < after, limit=limit)


def _submissions(
    connection: Connection, tenant: str | None, condition: ColumnElement[bool], *, limit: int
) -> list[tuple[Handed, Tally]]:
    is_theirs = true() if tenant is None else Submission.tenant == tenant
    handed = tallies.handed(connection, is_theirs, condition, limit=limit)
    found = tallies.tally(connection, [one.id for one in handed])
    return [(one, found.get(one.id, Tally())) for one in handed]


def models(connection: Connection, *, silent_after_s: float) -> list[tuple[ModelRef, int]]:
    """Return every model version that a worker has served, and how many workers serve it now."""
    is_alive = and_(
        Worker.model_id == ModelVersion.id,
        Worker.stopped_at.is_(None),
        Worker.unhealthy_at.is_(None),
        Worker.last_seen_at >= db_now(-silent_after_s),
    )
    statement = (
        select(
            ModelVersion.name,
            ModelVersion.version,
            ModelVersion.precision,
            ModelVersion.trained,
            func.count(Worker.id).label("workers"),
        )
        .outerjoin(Worker, is_alive)
        .group_by(ModelVersion.name, ModelVersion.version, ModelVersion.precision, ModelVersion.trained)
        .order_by(ModelVersion.name, ModelVersion.version, ModelVersion.precision)
    )
    return [
        (
            ModelRef(name=row.name, version=row.version, precision=row.precision, trained=row.trained),
            row.workers,
        )
        for row in connection.execute(statement)
    ]
