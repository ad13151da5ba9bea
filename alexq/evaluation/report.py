"""An evaluation as files: ``report.json`` for programs, ``report.html`` in one piece for people."""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from pydantic import BaseModel

from alexq.evaluation.measures import Answer, Measures
from alexq.evaluation.pictures import draw_confusion, draw_mistakes

_CONFUSED_SHOWN: Final = 20
_STYLE: Final = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem; }
table { border-collapse: collapse; margin: 1rem 0; } td, th { padding: .2rem .8rem; text-align: left; }
tr:nth-child(even) { background: #8881; } td.n { text-align: right; font-variant-numeric: tabular-nums; }
img { max-width: 100%; background: white; } :root { color-scheme: light dark; }
"""


class Report(BaseModel):
    """Everything that an evaluation found."""

    model: str
    precision: str
    weights_sha256: str
    data: str
    images_per_s: float
    measures: Measures
    mistakes: list[Answer]
    unanswered: list[Answer]
    """The first of the pictures that got no answer."""

    def as_json(self, indent: int | None = None) -> str:
        """Return it as JSON in ASCII: a file's name may hold bytes that are no text."""
        return json.dumps(self.model_dump(), indent=indent)


def write_report(folder: Path, report: Report, labels: Sequence[str]) -> Path:
    """Write ``report.json``, ``report.html`` and its pictures as PNG; return the HTML's path."""
    folder.mkdir(parents=True, exist_ok=True)
    confusion, mistakes = draw_confusion(report.measures, labels), draw_mistakes(report.mistakes, labels)
    (folder / "confusion.png").write_bytes(confusion)
    (folder / "mistakes.png").write_bytes(mistakes)
    (folder / "report.json").write_text(report.as_json(indent=1) + "\n", "utf-8")
    path = folder / "report.html"
    path.write_text(_page(report, labels, confusion, mistakes), "utf-8", "replace")
    return path


def _page(report: Report, labels: Sequence[str], confusion: bytes, mistakes: bytes) -> str:
    found = report.measures
    numbers = [
        ("right", f"{found.top1:.3%}"),
        ("among the first five", f"{found.top5:.3%}"),
        ("calibration error", f"{found.ece:.4f}"),
        ("pictures", f"{found.images:,}"),
        ("without an answer (counted as wrong)", f"{found.unanswered:,}"),
        ("pictures/s through the queue", f"{report.images_per_s:,.1f}"),
        ("precision", report.precision),
        ("weights", report.weights_sha256),
        ("data", report.data),
    ]
    by_class = [
        (of.label, f"{of.images:,}", f"{of.top1:.1%}", f"{of.top5:.1%}")
        for of in sorted(found.per_class, key=lambda of: (of.top1, of.label))
    ]
    confused = [
        (labels[truth], labels[predicted], f"{times:,}")
        for truth, predicted, times in found.confusion
        if truth != predicted
    ][:_CONFUSED_SHOWN]
    wrong = [
        (answer.source, labels[answer.truth], labels[answer.ranked[0]], f"{answer.probability:.1%}")
        for answer in report.mistakes
    ]
    lost = [(answer.source, answer.error or "") for answer in report.unanswered]
    parts = [
        _table((), numbers),
        _image(confusion, "What is taken for what, and how sure it is"),
        "<h2>Most often confused</h2>",
        _table(("is a", "predicted", "times"), confused),
        "<h2>Surest mistakes</h2>",
        _image(mistakes, "The pictures of the surest mistakes") if wrong else "<p>None.</p>",
        _table(("picture", "is a", "predicted", "probability"), wrong),
        "<h2>By label</h2>",
        _table(("label", "pictures", "right", "among the first five"), by_class),
    ]
    if lost:
        parts += ["<h2>Without an answer</h2>", _table(("picture", "why"), lost)]
    title = html.escape(f"{report.model} on {Path(report.data).name}")
    return (
        f'<!doctype html>\n<html lang="en"><meta charset="utf-8"><title>{title}</title>'
        f"<style>{_STYLE}</style><h1>{title}</h1>\n" + "\n".join(parts) + "</html>\n"
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [f"<tr>{''.join(f'<th>{html.escape(cell)}</th>' for cell in head)}</tr>"] if head else []
    for first, *others in rows:
        cells = "".join(f'<td class="n">{html.escape(cell)}</td>' for cell in others)
        lines.append(f"<tr><td>{html.escape(first)}</td>{cells}</tr>")
    return f"<table>{''.join(lines)}</table>"


def _image(data: bytes, alt: str) -> str:
    return f'<img alt="{html.escape(alt)}" src="data:image/png;base64,{base64.b64encode(data).decode()}">'
