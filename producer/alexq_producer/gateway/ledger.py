"""What was accepted here and the last count of the database may not know of."""

from __future__ import annotations

from collections import defaultdict
from typing import Generic, TypeVar

from alexq_schema.db.backlog import Usage

Key = TypeVar("Key")


class Ledger(Generic[Key]):
    """Adds up, for each key, what came since the last count began; never too little, for a moment too much.

    What is settled while a count runs may be in it or not, so it stays until the next one.
    """

    def __init__(self) -> None:
        self._open: defaultdict[Key, Usage] = defaultdict(Usage)
        self._settled: defaultdict[Key, Usage] = defaultdict(Usage)
        self._before: defaultdict[Key, Usage] = defaultdict(Usage)

    def of(self, key: Key) -> Usage:
        """Return what came for ``key``."""
        return sum((part[key] for part in (self._open, self._settled, self._before) if key in part), Usage())

    def add(self, key: Key, more: Usage) -> None:
        """Note what is being taken in, and is not committed."""
        self._open[key] += more

    def close(self, key: Key, all_of_it: Usage, *, is_committed: bool) -> None:
        """Note what became of something that was added."""
        left = self._open.pop(key)
        left = Usage(left.jobs - all_of_it.jobs, left.image_bytes - all_of_it.image_bytes)
        if left.jobs:
            self._open[key] = left
        if is_committed:
            self._settled[key] += all_of_it

    def count_begins(self) -> None:
        """From here on what is settled may not be in the count that begins."""
        for key, usage in self._settled.items():
            self._before[key] += usage
        self._settled.clear()

    def count_ends(self) -> None:
        """The count is there: what was settled before it began is in it."""
        self._before.clear()
