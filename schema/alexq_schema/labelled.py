"""Labelled pictures on disk: a folder of folders, or a CSV file of ``path,label``.

A folder's pictures lie in one folder a label (torchvision's ImageFolder). Where it has ``train`` beside
``val`` (or ``test``), each of these is such a folder, and the second is held out. A CSV file has a header
``path,label`` and may have a third column ``split`` with ``train`` or ``val``; its paths are relative to it.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from alexq_schema.errors import DatasetError

_HELD_OUT_FOLDERS: Final = ("val", "test")
_SPLITS: Final = {"train": False, "val": True, "test": True}


class Problem(StrEnum):
    """What can be wrong with labelled pictures; each is reported with the names it concerns."""

    ONE_CLASS = "only one class"
    EMPTY_CLASS = "a class without pictures"
    LABEL_MISSING = "a label is missing"
    LABEL_INVALID = "a label that cannot be in a label list"
    FILE_MISSING = "a file is missing"
    UNREADABLE = "a file that cannot be read"
    CONTRADICTION = "the same picture under different labels"
    ACROSS_THE_SPLIT = "the same picture in training and held out"
    TOO_FEW = "a class with too few pictures"


@dataclass(frozen=True)
class Finding:
    """One problem and where it is."""

    problem: Problem
    where: str


@dataclass(frozen=True, slots=True)
class Example:
    """One labelled picture."""

    path: Path
    label: str
    held_out: bool | None = None
    """None where the data does not say."""


@dataclass(frozen=True)
class Labelled:
    """What was read: the examples in a fixed order, every label, and what is wrong."""

    examples: list[Example]
    labels: list[str]
    """Sorted; one that has no example too."""
    findings: list[Finding]


def refuse(findings: list[Finding], shown: int = 10) -> None:
    """Raise DatasetError if there are findings: it names every problem and some places of each."""
    if not findings:
        return
    lines = []
    for problem in Problem:
        places = [finding.where for finding in findings if finding.problem is problem]
        if places:
            more = f" and {len(places) - shown} more" if len(places) > shown else ""
            lines.append(f"{problem} ({len(places)}): {'; '.join(places[:shown])}{more}")
    raise DatasetError("the data cannot be used:\n  " + "\n  ".join(lines))


def read_labelled(source: Path) -> Labelled:
    """Read which pictures there are and how they are labelled; opens no picture.

    Raises:
        DatasetError: ``source`` is neither a folder nor a readable CSV file.
    """
    findings: list[Finding] = []
    if source.is_dir():
        labels: set[str] = set()
        examples = list(_of_folders(source, labels, findings))
    else:
        examples = list(_of_csv(source, findings))
        labels = {example.label for example in examples}
    found = sorted(labels)
    findings += [Finding(Problem.LABEL_INVALID, repr(label)) for label in found if not _can_be_listed(label)]
    if len(found) == 1:
        findings.append(Finding(Problem.ONE_CLASS, f"{found[0]!r} in {source}"))
    if not found and not findings:
        raise DatasetError(
            f"there are no labelled pictures in {source}: give a folder with one folder of pictures for each "
            "label, or a CSV file of path,label"
        )
    return Labelled(examples, found, findings)


def _of_folders(source: Path, labels: set[str], findings: list[Finding]) -> Iterator[Example]:
    held = next((name for name in _HELD_OUT_FOLDERS if (source / name).is_dir()), None)
    if held is None or not (source / "train").is_dir():
        yield from _of_folder(source, None, labels, findings)
        return
    yield from _of_folder(source / "train", False, labels, findings)
    yield from _of_folder(source / held, True, labels, findings)


def _of_folder(
    source: Path, held_out: bool | None, labels: set[str], findings: list[Finding]
) -> Iterator[Example]:
    for path in sorted(source.iterdir()):
        if path.name.startswith("."):
            continue
        if not path.is_dir():
            findings.append(Finding(Problem.LABEL_MISSING, f"{path} lies in no label's folder"))
            continue
        labels.add(path.name)
        count = 0
        for file in sorted(path.rglob("*")):
            if file.is_file() and not any(part.startswith(".") for part in file.relative_to(path).parts):
                count += 1
                yield Example(file, path.name, held_out)
        if not count:
            findings.append(Finding(Problem.EMPTY_CLASS, str(path)))


def _of_csv(source: Path, findings: list[Finding]) -> Iterator[Example]:
    try:
        with source.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file)
            if not {"path", "label"} <= set(rows.fieldnames or ()):
                raise DatasetError(
                    f"{source} must begin with the line path,label (and may have a column split)"
                )
            for row in rows:
                where = f"{source.name} line {rows.line_num}"
                path, label = (row["path"] or "").strip(), (row["label"] or "").strip()
                split = (row.get("split") or "").strip()
                if not path or not label:
                    findings.append(Finding(Problem.LABEL_MISSING, f"{where}: {path or 'no path'}"))
                elif not (source.parent / path).is_file():
                    findings.append(Finding(Problem.FILE_MISSING, f"{where}: {path}"))
                elif split and split not in _SPLITS:
                    raise DatasetError(f"{where}: split is {split!r}, not train or val")
                else:
                    yield Example(source.parent / path, label, _SPLITS.get(split))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(f"cannot read {source} as a folder or a CSV file: {error}") from error


def _can_be_listed(label: str) -> bool:
    return label == label.strip() and len(label.splitlines()) == 1 and "\0" not in label
