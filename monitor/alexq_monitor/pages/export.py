"""What a search finds, whole, as CSV or NDJSON: a few hundred rows at a time, as fast as they are taken."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final
from uuid import UUID

from tornado.iostream import StreamClosedError
from tornado.web import HTTPError

from alexq_monitor.pages.results import SearchPage, find, refuse
from alexq_schema.db.search import JobSearch
from alexq_schema.job import Job

ROWS: Final = 500
"""Rows in memory at a time."""
AT_A_TIME: Final = 3
"""Exports; each reads the database for as long as it lasts."""

COLUMNS: Final = (
    "job_id", "submission_id", "source", "state", "label", "probability", "model", "precision", "trained",
    "error_code", "error_detail", "attempt", "crashes", "worker", "waited_s", "decode_s", "forward_s",
    "total_s", "created_at", "finished_at", "image_key",
)  # fmt: skip


class ExportPage(SearchPage):
    """``/results/export.csv`` and ``/results/export.ndjson``."""

    template = "results"
    title = "Export"
    refresh_s = 0
    _running = 0

    async def get(self, kind: str) -> None:
        """Send every job that matches, newest first, until all are sent or the client goes."""
        asked = self.search()
        refuse(asked.problems)
        if ExportPage._running >= AT_A_TIME:
            raise HTTPError(503, f"{AT_A_TIME} exports run already: wait until one is done")
        lines = _csv if kind == "csv" else _ndjson
        self.set_header(
            "Content-Type", f"{'text/csv' if kind == 'csv' else 'application/x-ndjson'}; charset=UTF-8"
        )
        self.set_header("Content-Disposition", f'attachment; filename="alexq-results.{kind}"')
        ExportPage._running += 1
        try:
            await self._send(asked.search, lines)
        except StreamClosedError:
            return
        finally:
            ExportPage._running -= 1

    async def _send(self, wanted: JobSearch, lines: Callable[[Sequence[Job], bool], str]) -> None:
        after: UUID | None = None
        is_first = True
        while is_first or after is not None:
            page, jobs = await self.dashboard.sources.read(
                partial(find, wanted=wanted, after=after, limit=ROWS)
            )
            self.write(lines(jobs, is_first))
            await self.flush()
            after, is_first = page.next_after, False


def _ndjson(jobs: Sequence[Job], _is_first: bool) -> str:
    return "".join(f"{job.model_dump_json()}\n" for job in jobs)


def _csv(jobs: Sequence[Job], is_first: bool) -> str:
    text = io.StringIO()
    writer = csv.writer(text)
    if is_first:
        writer.writerow(COLUMNS)
    writer.writerows([[harmless(cell) for cell in _cells(job)] for job in jobs])
    return text.getvalue()


def _cells(job: Job) -> list[object]:
    model, error, times = job.model, job.error, job.timings
    return [
        job.job_id,
        job.submission_id,
        job.source,
        job.state,
        job.label,
        job.probability,
        f"{model.name}/{model.version}" if model else None,
        model.precision if model else None,
        model.trained if model else None,
        error.code if error else None,
        error.detail if error else None,
        job.attempt,
        job.crashes,
        job.worker,
        times.waited_s,
        times.decode_s,
        times.forward_s,
        times.total_s,
        job.created_at.isoformat() if job.created_at else None,
        job.finished_at.isoformat() if job.finished_at else None,
        job.image_key,
    ]


def harmless(cell: object) -> object:
    """Return a cell that no spreadsheet takes for a formula (CSV injection, after OWASP)."""
    if isinstance(cell, str) and cell.startswith(("=", "+", "-", "@", "\t", "\r", "\n")):
        return f"'{cell}"
    return cell
