"""What the demo shows of its results."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from rich.console import Group
from rich.table import Table
from rich.text import Text

from alexq_schema.job import Job, ModelRef

_BAR_WIDTH: Final = 16


def results_table(jobs: Sequence[Job]) -> Group:
    """Return the results for people: each picture's labels with bars, and the model that made them."""
    table = Table("picture", "top 5", show_lines=True)
    for job in jobs:
        table.add_row(Path(job.source).name, _labels(job))
    models = {job.model: None for job in jobs if job.model is not None}
    return Group(table, *(_model_line(model) for model in models))


def labelled_table(jobs: Sequence[Job]) -> Group:
    """Return results beside the true labels, which are the names of the pictures' folders."""
    table = Table("picture", "is a", "predicted", "probability", "")
    right = 0
    for job in jobs:
        path = Path(job.source)
        is_right = job.label == path.parent.name
        right += is_right
        mark = Text("right", style="green") if is_right else Text("WRONG", style="red")
        if job.error is not None:
            table.add_row(path.name, path.parent.name, _labels(job), "", mark)
        else:
            table.add_row(path.name, path.parent.name, job.label, f"{job.probability or 0:.1%}", mark)
    models = {job.model: None for job in jobs if job.model is not None}
    measured = Text(f"{right} of {len(jobs)} right: accuracy {right / len(jobs):.1%}", style="bold")
    return Group(table, measured, *(_model_line(model) for model in models))


def _labels(job: Job) -> Text:
    if job.error is not None:
        return Text(f"{job.state}: {job.error.code}: {job.error.detail}", style="red")
    lines = [
        f"{'█' * round(p.probability * _BAR_WIDTH):<{_BAR_WIDTH}} {p.probability:6.1%}  {p.label}"
        for p in job.predictions
    ]
    return Text("\n".join(lines) or str(job.state))


def _model_line(model: ModelRef) -> Text:
    line = Text(f"model {model.name}/{model.version}, {model.precision}")
    if not model.trained:
        line.append("\nUNTRAINED: seeded random weights, these labels mean nothing", style="bold yellow")
    return line
