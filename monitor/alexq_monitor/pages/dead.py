"""Dead jobs: what they are dead of, and to queue them again once it is mended."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, Final
from uuid import UUID

from sqlalchemy import Connection

from alexq_monitor.pages.base import Page
from alexq_schema.db import dashboard, jobs, queries
from alexq_schema.db.dashboard import Dead, Event
from alexq_schema.errors import UsageError
from alexq_schema.job import Job

PAGE: Final = 50
REDRIVES: Final = 10
AT_ONCE: Final = 20
"""Transactions of one click, of ``jobs.IDS_PER_STATEMENT`` jobs each."""


@dataclass(frozen=True, slots=True)
class _Found:
    dead: Dead
    jobs: list[Job]
    next: UUID | None
    redrives: list[Event]


def _find(
    connection: Connection, error_code: str | None, submission_id: UUID | None, after: UUID | None
) -> _Found:
    ids = dashboard.dead_ids(
        connection, error_code=error_code, submission_id=submission_id, after=after, limit=PAGE + 1
    )
    return _Found(
        dead=dashboard.dead(connection, submission_id),
        jobs=queries.by_id(connection, ids[:PAGE]),
        next=ids[PAGE - 1] if len(ids) > PAGE else None,
        redrives=dashboard.redrives(connection, REDRIVES),
    )


class OfDeadJobs(Page):
    """What shows dead jobs, or acts on them: all, or one submission's."""

    tab = "dead"

    def asked_submission(self) -> UUID | None:
        """Return the submission whose jobs alone are meant."""
        submission = self.asked("submission")
        return None if submission is None else self.asked_id(submission)


class DeadPage(OfDeadJobs):
    """``/dead``."""

    template = "dead"
    title = "Dead jobs"

    async def get(self) -> None:
        """Show what is dead, the newest jobs first."""
        code, older, submission = self.asked("code"), self.asked("older"), self.asked_submission()
        after = None if older is None else self.asked_id(older)
        find = partial(_find, error_code=code, submission_id=submission, after=after)
        found = await self.dashboard.sources.read(find)
        self.show(found=found, code=code, submission=submission, older=older)

    def said(self) -> str | None:
        """Say how many jobs were queued again."""
        more = " There are more: press again." if self.asked("more") else ""
        return self.said_of("redriven", "{jobs} queued again." + more)


class Redrive(OfDeadJobs):
    """``POST /dead/redrive``: one job, those dead of one thing, or all; of all or one submission's."""

    async def post(self) -> None:
        """Queue them again, with a record of who did it."""
        self.require_admin()
        which, code, job = self.asked("which"), self.asked("code"), self.asked("job")
        submission = self.asked_submission()
        if which == "one" and job is not None:
            done = await self._redrive(job_ids=[self.asked_id(job)])
        elif which == "code" and code is not None:
            done = await self._redrive(error_code=code, submission_id=submission)
        elif which == "all":
            done = await self._redrive(submission_id=submission)
        else:
            raise UsageError("say which: one with its job, code with its code, or all")
        more = 1 if done == AT_ONCE * jobs.IDS_PER_STATEMENT else None
        self.redirect(self.path("/dead", submission=submission, redriven=done, more=more), status=303)

    async def _redrive(self, **which: Any) -> int:
        redrive = partial(jobs.redrive, actor=self.actor, **which)
        done = 0
        for _ in range(AT_ONCE):
            some = len(await self.dashboard.sources.write(redrive))
            done += some
            if some < jobs.IDS_PER_STATEMENT:
                break
        return done
