"""Jobs by what is known of them, newest first, for people who look.

A page begins after the last id of the one before. Conditions that no index serves are looked for among a
bounded number of rows, so that a page costs the same whatever is rare: a page may be short, or empty, and
still not be the last.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from sqlalchemy import ColumnElement, Connection, select

from alexq_schema.db.rows import IS_RUNNING, is_in, is_still_in
from alexq_schema.db.tables import Job, ModelVersion, Submission
from alexq_schema.ids import first_id_at
from alexq_schema.job import JobState

LOOK_AT: Final = 25_000
"""Rows that one page looks at, at most."""

_ID_IS_OLDER_BY: Final = timedelta(hours=1)
"""An id is made when its image comes, the row when all of its submission have come: at most this later."""


@dataclass(frozen=True, slots=True)
class JobSearch:
    """Which jobs; None stands for any."""

    state: JobState | None = None
    label: str | None = None
    model: tuple[str, str] | None = None
    """Name and version."""
    submission_id: UUID | None = None
    tenant: str | None = None
    created_after: datetime | None = None
    created_before: datetime | None = None
    min_probability: float | None = None

    def _anchor(self) -> tuple[str | None, list[ColumnElement[bool]]]:
        """Return the field that an index in the order of ids serves best, and its condition."""
        if self.submission_id is not None:
            return "submission", [Job.submission_id == self.submission_id]
        if self.label is not None:
            return "label", [Job.label == self.label]
        if self.state is not None and self.state is not JobState.QUEUED:
            return "state", [is_in(self.state)]
        return None, []

    def _ids(self) -> list[ColumnElement[bool]]:
        """Return the range of ids that the time span allows."""
        wanted: list[ColumnElement[bool]] = []
        if self.created_after is not None:
            wanted.append(Job.id >= first_id_at(self.created_after - _ID_IS_OLDER_BY))
        if self.created_before is not None:
            wanted.append(Job.id < first_id_at(self.created_before + _ID_IS_OLDER_BY))
        return wanted

    def _others(self, anchor: str | None) -> list[ColumnElement[bool]]:
        """Return the conditions that are checked row by row."""
        wanted: list[ColumnElement[bool]] = []
        if self.label is not None and anchor != "label":
            wanted.append(Job.label == self.label)
        if self.state is not None and anchor != "state":
            wanted.append(is_still_in(self.state))
        if self.model is not None:
            name, version = self.model
            models = select(ModelVersion.id).where(ModelVersion.name == name, ModelVersion.version == version)
            wanted.append(Job.model_id.in_(models))
        if self.tenant is not None:
            owner = select(Submission.tenant).where(Submission.id == Job.submission_id).correlate(Job)
            wanted.append(owner.scalar_subquery() == self.tenant)
        if self.created_after is not None:
            wanted.append(Job.created_at >= self.created_after)
        if self.created_before is not None:
            wanted.append(Job.created_at < self.created_before)
        if self.min_probability is not None:
            wanted.append(Job.probability >= self.min_probability)
        return wanted


@dataclass(frozen=True, slots=True)
class Page:
    """A part of what was asked for."""

    job_ids: list[UUID]
    next_after: UUID | None
    """The id that the next page follows; None: this was the last."""
    is_cut_short: bool
    """The page ended at the rows it may look at, not at its size: there may be more, or nothing."""


def page(
    connection: Connection, wanted: JobSearch, *, after: UUID | None, limit: int, look_at: int = LOOK_AT
) -> Page:
    """Return the ids of up to ``limit`` jobs, newest first, of the page that follows the job ``after``."""
    anchor, conditions = wanted._anchor()
    conditions = [*conditions, *wanted._ids()]
    if after is not None:
        conditions.append(Job.id < after)
    if wanted.state is JobState.RUNNING and anchor == "state":
        # They are few, but spread over all jobs: the LIMIT keeps planners from going through those by id.
        held = select(Job.id).where(IS_RUNNING).limit(look_at).subquery()
        conditions.append(Job.id.in_(select(held.c.id)))
    newest_first = select(Job.id).where(*conditions).order_by(Job.id.desc())
    others = wanted._others(anchor)
    last = None
    if others:
        last = connection.execute(newest_first.offset(look_at - 1).limit(1)).scalar()
        newest_first = newest_first.where(*others, *([] if last is None else [Job.id >= last]))
    found = list(connection.execute(newest_first.limit(limit + 1)).scalars())
    if len(found) > limit:
        return Page(found[:limit], found[limit - 1], is_cut_short=False)
    return Page(found, last, is_cut_short=last is not None)
