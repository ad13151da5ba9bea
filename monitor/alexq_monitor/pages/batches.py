"""Batches: how full they are, and where the time goes."""

from __future__ import annotations

from typing import Final

from sqlalchemy import Connection

from alexq_monitor.batches import Batches, summarise
from alexq_monitor.pages.base import Page
from alexq_schema.db import dashboard

WINDOW: Final = 10_000
"""Jobs that are looked at: those that ended last."""


def read(connection: Connection) -> tuple[Batches, dict[str, tuple[str, str]]]:
    """Return what the last jobs tell, and the workers' names and devices by their ids as text."""
    batches = summarise(dashboard.recently_served(connection, WINDOW))
    ids = [worker for worker, _ in batches.by_worker if worker is not None]
    names = dashboard.worker_names(connection, ids)
    return batches, {str(worker): name for worker, name in names.items()}


class BatchesPage(Page):
    """``/batches``."""

    template = tab = "batches"
    title = "Batches"

    async def get(self) -> None:
        """Show it; what was read serves all who look within some seconds."""
        batches, names = await self.dashboard.batches.get()
        self.show(batches=batches, names=names, window=WINDOW)
