"""The table, the result file and the chart of ``python -m benchmarks.scale``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.conditions import conditions
from benchmarks.scale.measure import Plan

RESULTS = Path(__file__).parent.parent / "results"
TITLES = {
    "bulk": "bulk: 64 ids a message",
    "paced": "bulk, workers at a device's pace",
    "single": "single: one id a message",
    "door": "Celery's door: an image a message",
}


def series_of(row: dict[str, Any], device_ms: float) -> str:
    """Return the chart that a row belongs to: a slower device than usual has one of its own."""
    return "paced" if row["kind"] == "bulk" and row["device_ms"] != device_ms else str(row["kind"])


def medians(measured: Sequence[tuple[Plan, dict[str, Any]]]) -> list[dict[str, Any]]:
    """Return one row for each plan: the one of the median rate, with the rates of all its rounds."""
    rounds: dict[Plan, list[dict[str, Any]]] = {}
    for plan, row in measured:
        rounds.setdefault(plan, []).append(row)
    return [
        sorted(rows, key=lambda row: row["jobs_per_s"])[len(rows) // 2]
        | {"rounds_jobs_per_s": [row["jobs_per_s"] for row in rows]}
        for rows in rounds.values()
    ]


def show(rows: Sequence[dict[str, Any]], console: Console) -> None:
    """Print one line a measurement."""
    table = Table(title="jobs/s; CPU in µs a job")
    for heading in ("database", "kind", "workers", "device ms", "queued", "ended", "jobs/s", "mean batch"):
        table.add_column(heading, justify="right")
    for heading in ("CPU workers", "broker", "database"):
        table.add_column(heading, justify="right")
    for row in rows:
        cpu = row["cpu_us_per_job"]
        queued = f"{row['jobs']:,}" + (" held" if row["hold_s"] else "")
        table.add_row(
            row["database"],
            row["kind"],
            str(row["workers"]),
            f"{row['device_ms']:g}",
            queued,
            f"{row['ended']:,}",
            f"{row['jobs_per_s']:,.0f}",
            f"{row['mean_batch']:.1f}",
            *(f"{cpu[name]:.0f}" for name in ("workers", "broker", "database")),
        )
    console.print(table)


def save(rows: Sequence[dict[str, Any]], broker: str, postgresql: str, device_ms: float) -> None:
    """Write ``results/scale.json`` and ``results/scale.png``."""
    record = {
        **conditions("celery", "kombu", "sqlalchemy", "psycopg", broker=broker, postgresql=postgresql),
        "device_ms": device_ms,
        "rows": list(rows),
    }
    (RESULTS / "scale.json").write_text(json.dumps(record, indent=2) + "\n")
    chart(rows, device_ms, RESULTS / "scale.png")


def chart(rows: Sequence[dict[str, Any]], device_ms: float, path: Path) -> None:
    """Draw jobs/s over workers, a panel for each kind of message."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    drained = [row for row in rows if not row["hold_s"]]
    kinds = [kind for kind in TITLES if any(series_of(row, device_ms) == kind for row in drained)]
    drawing, panels = pyplot.subplots(1, len(kinds), figsize=(4.2 * len(kinds), 3.6), layout="constrained")
    for axes, kind in zip([panels] if len(kinds) == 1 else panels, kinds, strict=True):
        for database, colour in (("sqlite", "#9aa4b2"), ("postgresql", "#1f6feb")):
            points = [
                (row["workers"], row["jobs_per_s"])
                for row in drained
                if row["database"] == database and series_of(row, device_ms) == kind
            ]
            if points:
                axes.plot(*zip(*sorted(points), strict=True), "o-", color=colour, label=database)
        axes.set_title(TITLES[kind], loc="left", fontsize=10)
        axes.set_xlabel("workers")
        axes.set_ylim(bottom=0)
        axes.set_xticks(sorted({row["workers"] for row in drained}))
        axes.spines[["top", "right"]].set_visible(False)
    first = drawing.axes[0]
    first.set_ylabel("jobs/s")
    first.legend(frameon=False)
    drawing.savefig(path, dpi=110)
    pyplot.close(drawing)
