"""How jobs are shown: lines on stdout for programs and people, complaints and progress on stderr."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from alexq_schema.job import Job, JobState


def printable(text: str) -> str:
    """Return ``text`` with control characters escaped: a file name must not steer a terminal or a pipe."""
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in text
    )


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{speed:,.0f}/s" if speed else "")


class Output:
    """Prints jobs as they come, with a progress bar on stderr where that is a terminal."""

    def __init__(self, *, as_json: bool, top_k: int) -> None:
        self._as_json = as_json
        self._top_k = top_k
        self.has_failures = False
        self._errors = Console(stderr=True, soft_wrap=True, highlight=False)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            _Rate(),
            TimeRemainingColumn(),
            console=self._errors,
            transient=True,
            disable=not self._errors.is_terminal,
        )
        self._bar = self._progress.add_task("", total=None)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()
        sys.stdout.flush()

    def begin(self, what: str, total: int | None) -> None:
        """Start the bar anew."""
        self._progress.reset(self._bar, description=what, total=total)

    def advance(self) -> None:
        """Move the bar on by one."""
        self._progress.advance(self._bar)

    def say(self, text: str) -> None:
        """Tell the person something."""
        self._errors.print(Text(printable(text)))

    def show(self, job: Job) -> None:
        """Print one job; one that did not succeed also gets a readable line on stderr."""
        if job.state != JobState.SUCCEEDED:
            self.has_failures = True
            if job.error is not None:
                # A rejection names its input itself.
                detail = job.error.detail.removeprefix(f"{job.source}: ")
                line = printable(f"{job.source}: {job.state} [{job.error.code}] {detail}")
                self._errors.print(Text(line, style="red"))
        if self._as_json:
            shown = job.model_copy(update={"predictions": job.predictions[: self._top_k]})
            self._line(shown.model_dump_json())
        elif job.error is None:
            self._line(printable(_sentence(job, self._top_k)))

    def _line(self, text: str) -> None:
        if self._errors.is_terminal and sys.stdout.isatty():
            self._progress.print(Text(text))  # above the bar
        else:
            sys.stdout.write(text + "\n")


def _sentence(job: Job, top_k: int) -> str:
    if job.state != JobState.SUCCEEDED:
        return f"{job.job_id}  {job.state}  {job.source}"
    labels = ", ".join(f"{p.label} {p.probability:.1%}" for p in job.predictions[:top_k])
    untrained = "" if job.model is None or job.model.trained else "  (untrained model)"
    return f"{job.source}: {labels}{untrained}"
