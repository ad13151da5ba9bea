"""Submissions: how far each is, how fast, what came of it; and to cancel one."""

from __future__ import annotations

import logging
from functools import partial
from typing import Final
from uuid import UUID

from sqlalchemy import Connection
from tornado.web import HTTPError

from alexq_monitor.pages.base import Page
from alexq_monitor.sources import or_error
from alexq_schema.announcing import announce
from alexq_schema.db import jobs, tallies
from alexq_schema.db.tallies import Handed

log = logging.getLogger("alexq.monitor")

PAGE: Final = 20


class SubmissionsPage(Page):
    """``/submissions``."""

    template = tab = "submissions"
    title = "Submissions"

    async def get(self) -> None:
        """Show a page of them, newest first."""
        older = self.asked("older")
        after = None if older is None else self.asked_id(older)
        found = await self.dashboard.sources.read(partial(tallies.newest, after=after, limit=PAGE + 1))
        handed = found[:PAGE]
        known = await self.dashboard.tallies.of_all(handed)
        self.show(
            handed=handed, tallies=known, older=older, next=handed[-1].id if len(found) > PAGE else None
        )


class SubmissionPage(Page):
    """``/submissions/<id>``."""

    template = "submission"
    tab = "submissions"
    title = "Submission"

    async def get(self, submission_id: str) -> None:
        """Show it."""
        known = self.asked_id(submission_id)
        handed = await self.dashboard.sources.read(partial(_one, submission_id=known))
        self.show(handed=handed, numbers=await self.dashboard.tallies.of(handed))

    def said(self) -> str | None:
        """Say how many jobs were cancelled."""
        return self.said_of("cancelled", "{jobs} cancelled.")


class CancelSubmission(Page):
    """``POST /submissions/<id>/cancel``."""

    tab = "submissions"

    async def post(self, submission_id: str) -> None:
        """Cancel what waits or runs, some thousands at a time, with a record of who did it."""
        self.require_admin()
        known = self.asked_id(submission_id)
        await self.dashboard.sources.read(partial(_one, submission_id=known))
        cancelled, after = 0, None
        while ids := await self.dashboard.sources.read(
            partial(tallies.open_ids, submission_id=known, after=after, limit=jobs.IDS_PER_STATEMENT)
        ):
            gone = await self.dashboard.sources.write(partial(jobs.cancel, job_ids=ids, actor=self.actor))
            cancelled, after = cancelled + len(gone), ids[-1]
            # A hint to those who wait: they ask the database before long.
            await or_error(self.dashboard.sources.broker(partial(announce, finished=gone)))
        log.info("%s cancelled %d jobs", self.actor, cancelled, extra={"submission_id": known})
        self.redirect(self.path(f"/submissions/{known}", cancelled=cancelled), status=303)


def _one(connection: Connection, submission_id: UUID) -> Handed:
    handed = tallies.one(connection, submission_id)
    if handed is None:
        raise HTTPError(404, f"There is no submission {submission_id}.")
    return handed
