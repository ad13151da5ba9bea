"""The metrics that docs/howto/metrics.md describes, to be compared with those that there are."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from prometheus_client.metrics_core import Metric

DOCUMENT = Path(__file__).parents[2] / "docs/howto/metrics.md"
ROW = re.compile(r"^\| `(alexq_\w+)` \| (\w+) \|[^|]*\|([^|]*)\|", re.MULTILINE)


class Shape(NamedTuple):
    """Of a metric: what a query relies on."""

    kind: str
    labels: frozenset[str]


def documented(prefix: str = "alexq_") -> dict[str, Shape]:
    """Return the shape of each metric that the document describes and whose name begins so."""
    rows = ROW.findall(DOCUMENT.read_text())
    return {
        name: Shape(kind, frozenset(re.findall(r"`(\w+)`", _names(labels))))
        for name, kind, labels in rows
        if name.startswith(prefix)
    }


def _names(labels: str) -> str:
    """Return the cell without the values that follow a label's name and colon."""
    return re.sub(r": (`\w+`(, )?)+", " ", labels)


def exposed(families: Iterable[Metric], prefix: str = "alexq_") -> dict[str, Shape]:
    """Return the shape of each family whose name begins so; counters under the name of their sample."""
    shapes: dict[str, Shape] = {}
    for family in families:
        name = f"{family.name}_total" if family.type == "counter" else family.name
        if name.startswith(prefix) and not name.endswith("_created"):  # when the process began to count
            labels = {label for sample in family.samples for label in sample.labels} - {"le"}
            before = shapes.get(name, Shape(family.type, frozenset()))
            shapes[name] = Shape(family.type, before.labels | labels)
    return shapes
