"""What the pages share."""

from __future__ import annotations

from dataclasses import dataclass

from alexq_monitor.batches import Batches
from alexq_monitor.overview import Overview
from alexq_monitor.sources import Shared, Sources
from alexq_monitor.tallying import Tallies


@dataclass(frozen=True, slots=True)
class Dashboard:
    """What a page needs to know."""

    sources: Sources
    overview: Overview
    tallies: Tallies
    batches: Shared[tuple[Batches, dict[str, tuple[str, str]]]]
    """What the last jobs tell, and workers' names and devices by their ids."""
    url_prefix: str
    is_admin: bool
    """Pages offer actions."""
