"""The table, the result file and the charts of ``make bench``."""

from __future__ import annotations

import json
import statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.conditions import conditions
from benchmarks.throughput.contender import Work

RESULTS = Path(__file__).parent.parent / "results"


@dataclass(frozen=True)
class Round:
    """What one contender did in one round."""

    images: int
    images_per_s: float
    cpu_s_per_image: float
    """Over all processes, the client's included."""
    latency_s: dict[str, float]
    """p50, p95 and p99, while everything waits at once."""
    peak_bytes: int


@dataclass
class Row:
    """One contender."""

    key: str
    name: str
    rounds: list[Round] = field(default_factory=list)
    why_not: str | None = None
    """Why it has no rate."""
    settings: dict[str, Any] = field(default_factory=dict)
    version: str = ""


def record(rows: list[Row], work: Work, *, rounds: int) -> dict[str, Any]:
    """Return everything that is written to the result file."""
    ceiling = rows[0]
    return {
        **conditions("torch", "pillow", "celery"),
        "precision": work.precision,
        "images": {
            "distinct": len(work.images),
            "mean_bytes": round(statistics.mean(map(len, work.images))),
        },
        "rounds": rounds,
        "rows": [_row(row, ceiling) for row in rows],
    }


def _row(row: Row, ceiling: Row) -> dict[str, Any]:
    about = {"key": row.key, "name": row.name, "version": row.version, "settings": row.settings}
    if row.why_not is not None or not row.rounds:
        return {**about, "why_not": row.why_not or "not measured"}
    rates = [one.images_per_s for one in row.rounds]
    ratios = [
        one.images_per_s / best.images_per_s for one, best in zip(row.rounds, ceiling.rounds, strict=False)
    ]
    return {
        **about,
        "images_per_s": spread(rates, 1),
        "ratio_to_ceiling": spread(ratios, 3),
        "cpu_ms_per_image": spread([1e3 * one.cpu_s_per_image for one in row.rounds], 2),
        "latency_s": {
            name: round(statistics.median(one.latency_s[name] for one in row.rounds), 3)
            for name in row.rounds[0].latency_s
        },
        "peak_mb": round(max(one.peak_bytes for one in row.rounds) / 1e6),
        "rounds": [vars(one) for one in row.rounds],
    }


def spread(values: list[float], digits: int) -> dict[str, float]:
    """Return median, min and max."""
    return {
        "median": round(statistics.median(values), digits),
        "min": round(min(values), digits),
        "max": round(max(values), digits),
    }


def show(result: dict[str, Any], console: Console) -> None:
    """Print the table."""
    table = Table(
        "", "images/s", "min–max", "of the ceiling", "CPU ms/image", "p50 s", "p95 s", "p99 s", "peak MB"
    )
    for row in result["rows"]:
        if "why_not" in row:
            table.add_row(row["name"], "–", f"could not run: {row['why_not'].splitlines()[0][:90]}")
            continue
        rate, latency = row["images_per_s"], row["latency_s"]
        table.add_row(
            row["name"] + (f" {row['version']}" if row["version"] else ""),
            f"{rate['median']:.1f}",
            f"{rate['min']:.1f}–{rate['max']:.1f}",
            f"{row['ratio_to_ceiling']['median']:.3f}",
            f"{row['cpu_ms_per_image']['median']:.2f}",
            *(f"{latency[name]:.2f}" for name in ("p50", "p95", "p99")),
            str(row["peak_mb"]),
        )
    console.print(table)


def save(result: dict[str, Any]) -> None:
    """Write ``results/cpu.json`` and the charts."""
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "cpu.json").write_text(json.dumps(result, indent=1) + "\n")
    rows = [row for row in result["rows"] if "why_not" not in row]
    chart(
        rows,
        "images_per_s",
        f"Images/s on {result['machine']['cores']} cores, {result['precision']} (more is better)",
        RESULTS / "cpu-images-per-s.png",
    )
    chart(
        rows,
        "cpu_ms_per_image",
        "CPU milliseconds an image, all processes (less is better)",
        RESULTS / "cpu-ms-per-image.png",
    )


def chart(rows: list[dict[str, Any]], figure: str, title: str, path: Path) -> None:
    """Draw one bar a row: its median, with the range of its rounds."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    drawing, axes = pyplot.subplots(figsize=(9, 0.45 * len(rows) + 1.2), layout="constrained")
    ours = ["#1f6feb" if row["key"].startswith("alexq") else "#9aa4b2" for row in rows]
    medians = [row[figure]["median"] for row in rows]
    below = [row[figure]["median"] - row[figure]["min"] for row in rows]
    above = [row[figure]["max"] - row[figure]["median"] for row in rows]
    bars = axes.barh([row["name"] for row in rows], medians, color=ours, xerr=[below, above], ecolor="#444")
    axes.bar_label(bars, [f"{value:g}" for value in medians], padding=6)
    axes.invert_yaxis()
    axes.set_title(title, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(x=0.12)
    drawing.savefig(path, dpi=110)
    pyplot.close(drawing)
