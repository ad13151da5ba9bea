"""A worker that is met in the middle of its work, however slow the test or the machine is."""

from __future__ import annotations

from pathlib import Path

MAIN = "\nimport sys; from alexq_worker.app import main; sys.exit(main())"

_PROGRAM = """
import time
from pathlib import Path
from alexq_worker.table import SqlJobTable
commit, committed = SqlJobTable.commit, []
def held(table, outcomes):
    if committed and len(committed) + len(outcomes) > {jobs}:
        Path({held!r}).touch()
        while not Path({may_go!r}).exists():
            time.sleep(0.05)
    committed.extend(outcomes)
    return commit(table, outcomes)
SqlJobTable.commit = held
"""


class Held:
    """What a worker that begins with :attr:`program` and its test tell one another."""

    def __init__(self, folder: Path, *, after_jobs: int) -> None:
        """Let a worker commit about so many jobs, once at least; the rest waits for :meth:`let_go`."""
        self._held, self._may_go = folder / "commit is held", folder / "commit may go"
        self.program = _PROGRAM.format(jobs=after_jobs, held=str(self._held), may_go=str(self._may_go))

    def is_held(self) -> bool:
        """Return whether a commit waits: there are jobs in the worker's hands, and they stay there."""
        return self._held.exists()

    def let_go(self) -> None:
        """Let the worker commit."""
        self._may_go.touch()
