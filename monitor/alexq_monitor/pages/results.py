"""Results: the jobs in SQL, newest first, by what is known of them."""

from __future__ import annotations

from typing import Final
from uuid import UUID

from sqlalchemy import Connection
from tornado.web import HTTPError

from alexq_monitor.pages import asking
from alexq_monitor.pages.asking import Asked
from alexq_monitor.pages.base import Page
from alexq_schema.db import queries, search
from alexq_schema.db.search import JobSearch
from alexq_schema.ids import time_of
from alexq_schema.job import Job, JobState

PAGE: Final = 50


class SearchPage(Page):
    """A page that shows what a search finds."""

    tab = "results"

    def search(self) -> Asked:
        """Return what is asked for."""
        written = {name: value for name in asking.FIELDS if (value := self.asked(name)) is not None}
        return asking.read(written)


class ResultsPage(SearchPage):
    """``/results``."""

    template = "results"
    top = "filters"
    title = "Results"

    async def get(self) -> None:
        """Show a page of what is asked for."""
        asked = self.search()
        older = self.asked("older")
        form = {"asked": asked, "states": list(JobState), "titles": asking.FIELDS, "older": older}
        if asked.problems:
            self.set_status(400)
            self.refresh_s = 0
            self.show(**form, jobs=[], page=None, looked_back=None)
            return
        after = None if older is None else self.asked_id(older)
        page, jobs = await self.dashboard.sources.read(lambda c: find(c, asked.search, after, PAGE))
        looked_back = time_of(page.next_after) if page.next_after and page.is_cut_short else None
        self.show(**form, jobs=jobs, page=page, looked_back=looked_back)


def find(
    connection: Connection, wanted: JobSearch, after: UUID | None, limit: int
) -> tuple[search.Page, list[Job]]:
    """Return a page of a search, and its jobs."""
    page = search.page(connection, wanted, after=after, limit=limit)
    return page, queries.by_id(connection, page.job_ids)


def refuse(problems: list[str]) -> None:
    """Refuse a search that makes no sense where no page can show why.

    Raises:
        HTTPError: 400.
    """
    if problems:
        raise HTTPError(400, "; ".join(problems))
