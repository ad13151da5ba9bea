"""One job: its picture, its answer, where its time went and what happened to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from uuid import UUID

from sqlalchemy import Connection
from tornado.web import HTTPError

from alexq_monitor.look import STATIC
from alexq_monitor.pages.base import Page
from alexq_monitor.thumbnails import thumbnail
from alexq_schema.db import dashboard, queries
from alexq_schema.db.dashboard import Event
from alexq_schema.errors import ImageError, ImageLostError, ImageStoreError
from alexq_schema.job import Job, JobState

KEEP_S: Final = 3_600


@dataclass(frozen=True, slots=True)
class _Found:
    job: Job
    events: list[Event]
    batch_size: int | None
    tenant: str | None
    queue: str


def _find(connection: Connection, job_id: UUID) -> _Found:
    jobs = queries.by_id(connection, [job_id])
    if not jobs:
        raise HTTPError(404, f"There is no job {job_id}: it never was, or was deleted after its time.")
    batch_size, tenant, queue = dashboard.batch_of(connection, job_id)
    return _Found(jobs[0], dashboard.events(connection, job_id), batch_size, tenant, queue)


def times(job: Job) -> list[tuple[str, float]]:
    """Return where the time of a finished job went, in order, in seconds; nothing before it is finished.

    Stages that it did not come to are not told.
    """
    spent = job.timings
    if spent.waited_s is None or spent.total_s is None:
        return []
    stages = (
        ("waited" if job.attempt <= 1 else "waited, and earlier attempts", max(0.0, spent.waited_s)),
        ("decoded", spent.decode_s),
        ("in the batch's forward pass", spent.forward_s),
    )
    known = [(name, seconds) for name, seconds in stages if seconds is not None]
    rest_s = max(0.0, spent.total_s - sum(seconds for _, seconds in known))
    return [*known, ("between, and committed" if len(known) > 1 else "in a worker's hands", rest_s)]


class JobPage(Page):
    """``/results/<id>``."""

    template = "job"
    tab = "results"
    title = "Result"

    async def get(self, job_id: str) -> None:
        """Show it."""
        known = self.asked_id(job_id)
        found = await self.dashboard.sources.read(lambda c: _find(c, known))
        self.show(found=found, job=found.job, times=times(found.job))


class ImagePage(Page):
    """``/results/<id>/image``: a small picture, or a placeholder where there is none to show."""

    tab = "results"

    async def get(self, job_id: str) -> None:
        """Send it."""
        known = self.asked_id(job_id)
        found = await self.dashboard.sources.read(lambda c: queries.by_id(c, [known]))
        if not found:
            raise HTTPError(404, f"There is no job {known}.")
        self.set_header("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'")
        try:
            picture = await self.dashboard.sources.files(lambda: self._picture(found[0]))
        except (ImageError, ImageLostError, ImageStoreError):
            self.set_header("Content-Type", "image/svg+xml")
            self.finish((STATIC / "no-image.svg").read_bytes())
            return
        self.set_header("Content-Type", "image/webp")
        self.set_header("Cache-Control", f"private, max-age={KEEP_S}")
        self.finish(picture)

    def _picture(self, job: Job) -> bytes:
        sources = self.dashboard.sources
        if job.state is not JobState.SUCCEEDED or job.image_key is None:
            raise ImageLostError("only what a worker has decoded is decoded here")
        return thumbnail(
            sources.images.get(job.image_key),
            max_bytes=sources.settings.max_image_bytes,
            max_pixels=sources.settings.max_image_pixels,
        )
