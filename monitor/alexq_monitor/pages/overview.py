"""Overview: is work flowing, what failed, do I need more workers."""

from __future__ import annotations

from alexq_monitor.pages.base import Page


class OverviewPage(Page):
    """``/overview``."""

    template = tab = "overview"
    title = "Overview"

    async def get(self) -> None:
        """Show it."""
        self.show(view=await self.dashboard.overview.view())
