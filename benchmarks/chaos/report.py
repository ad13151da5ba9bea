"""The campaign's result: a table for people, Markdown and JSON for the record."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.chaos.campaign import Row

RESULTS = Path(__file__).parent.parent / "results"
COMPARISON = (
    "Stock Celery + Redis, for comparison: prefork, `acks_late`, `task_reject_on_worker_lost`, a visibility "
    "timeout of 10 s (the default is an hour), results in the Redis backend. Its task sleeps 5 ms and "
    "returns the image's number, because only loss and repetition are compared, not speed. Its losses are "
    "not failures of this campaign."
)
COLUMNS = (
    "scenario",
    "jobs",
    "lost",
    "dup.",
    "wrong",
    "again",
    "crashes",
    "republ.",
    "recovery s",
    "took s",
    "",
)


def machine(redis_version: str, postgres_version: str) -> dict[str, Any]:
    """Return what the figures depend on."""
    return {
        "cores": len(os.sched_getaffinity(0)),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": version("torch"),
        "celery": version("celery"),
        "redis_server": redis_version,
        "postgresql": postgres_version,
    }


def cells(row: Row) -> list[str]:
    """Return one row's cells, in the order of COLUMNS."""
    times = row.recovery_s
    recovery = f"{times['p50']} / {times['p99']} / {times['max']}" if times else ""
    details = row.details
    return [
        row.scenario,
        f"{row.jobs:,}",
        str(row.lost),
        str(row.duplicated),
        str(row.wrong),
        str(details.get("again", "")),
        str(details.get("crashes", "")),
        str(details.get("republished", "")),
        recovery,
        f"{row.duration_s:.0f}",
        "ok" if row.is_good else "FAILED",
    ]


def stock_cells(row: Row) -> list[str]:
    """Return a comparison row's cells."""
    details = row.details
    keys = ("unfinished", "results_gone", "executions")
    return [
        row.scenario,
        f"{row.jobs:,}",
        str(row.lost),
        str(row.duplicated),
        *(str(details.get(k, "")) for k in keys),
    ]


STOCK_COLUMNS = (
    "scenario",
    "jobs",
    "lost",
    "executed more than once",
    "unfinished",
    "results gone",
    "executions",
)


def show(rows: Sequence[Row], console: Console) -> None:
    """Print everything."""
    alexq = [row for row in rows if row.system == "alexq"]
    stock = [row for row in rows if row.system != "alexq"]
    if alexq:
        table = Table(*COLUMNS, title="alexq (recovery: p50 / p99 / max)")
        for row in alexq:
            table.add_row(*cells(row), style=None if row.is_good else "red")
        console.print(table)
    if stock:
        table = Table(*STOCK_COLUMNS, title="stock Celery + Redis")
        for row in stock:
            table.add_row(*stock_cells(row))
        console.print(table)
    for row in rows:
        if not row.is_good and (row.system == "alexq" or row.broken):
            console.print(
                f"[red]{row.scenario}[/]",
                *row.broken,
                *row.details.get("faults", []),
                sep="\n  ",
                markup=True,
            )
            console.print(row.dump, markup=False, style="dim")


def markdown(rows: Sequence[Row], record: dict[str, Any]) -> str:
    """Return the report as Markdown."""
    about = ", ".join(f"{name} {value}" for name, value in record["machine"].items())
    out = [
        "# Fault campaign",
        "",
        f"`python -m benchmarks.chaos --profile {record['profile']} --seed {record['seed']}`",
        f"on {record['date']}, in {record['duration_s']:.0f} s.",
        f"Machine: {about}.",
        "",
        "Recovery is p50 / p99 / max in seconds. *again*: jobs claimed more than once;",
        "*republ.*: messages sent again, in jobs.",
        "",
        *_table(COLUMNS, [cells(row) for row in rows if row.system == "alexq"]),
        "",
    ]
    timed = [row for row in rows if row.recovery_of and row.system == "alexq"]
    out += ["What was timed:", "", *(f"- `{row.scenario}`: {row.recovery_of}" for row in timed), ""]
    for row in rows:
        if row.system == "alexq" and not row.is_good:
            facts = [*row.broken, *row.details.get("faults", [])]
            out += [
                f"## {row.scenario}",
                "",
                *(f"- {fact}" for fact in facts),
                "",
                "```",
                row.dump,
                "```",
                "",
            ]
    stock = [stock_cells(row) for row in rows if row.system != "alexq"]
    if stock:
        out += ["## Stock Celery", "", COMPARISON, "", *_table(STOCK_COLUMNS, stock), ""]
    return "\n".join(out)


def _table(head: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *body)]


def record(
    rows: Sequence[Row], about: dict[str, Any], *, profile: str, seed: int, duration_s: float
) -> dict[str, Any]:
    """Return the JSON result."""
    return {
        "machine": about,
        "profile": profile,
        "seed": seed,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "duration_s": round(duration_s, 1),
        "rows": [asdict(row) for row in rows],
    }


def save(rows: Sequence[Row], result: dict[str, Any]) -> None:
    """Write chaos.json and chaos.md."""
    (RESULTS / "chaos.json").write_text(json.dumps(result, indent=2, default=str) + "\n")
    (RESULTS / "chaos.md").write_text(markdown(rows, result))
