"""The processes that hand in a scenario's jobs."""

from __future__ import annotations

import json
from pathlib import Path

from alexq.stack.environment import environment
from alexq_schema.settings import Settings
from benchmarks.chaos.nursery import Nursery
from benchmarks.chaos.processes import kill_tree, tail


class Submitter:
    """A :mod:`benchmarks.chaos.submitter` process; started again until its plan is done."""

    def __init__(
        self,
        nursery: Nursery,
        settings: Settings,
        folder: Path,
        images: Path,
        number: int,
        submissions: list[list[int]],
        jobs_per_s: float,
        die_before_publish: int,
    ) -> None:
        self._nursery = nursery
        self._settings = settings
        self.log = folder / f"submitted-{number}.jsonl"
        self._output = folder / f"submitter-{number}.log"
        self._plan = folder / f"plan-{number}.json"
        plan = {
            "submissions": submissions,
            "jobs_per_s": jobs_per_s,
            "folder": str(images),
            "log": str(self.log),
            "die_before_publish": die_before_publish,
        }
        self._plan.write_text(json.dumps(plan))
        self.deaths = 0
        self._start()

    def _start(self) -> None:
        self._process = self._nursery.start(
            ["-m", "benchmarks.chaos.submitter", str(self._plan)],
            log=self._output,
            env=environment(self._settings),
        )

    def is_done(self) -> bool:
        """Return whether the plan is done; a submitter that died is started again."""
        code = self._process.poll()
        if code is None:
            return False
        if code == 0:
            return True
        self.deaths += 1
        if self.deaths > 3:
            raise RuntimeError(f"the submitter does not get on:\n{tail(self._output)}")
        self._start()
        return False

    def kill(self) -> None:
        """End the process."""
        kill_tree(self._process.pid)
