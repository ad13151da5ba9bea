"""The filters of the results, as a form and a URL spell them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

from alexq_schema.db.search import JobSearch
from alexq_schema.job import JobState

FIELDS: Final = {
    "state": "State",
    "label": "Label",
    "min": "At least, %",
    "model": "Model",
    "submission": "Submission",
    "tenant": "Tenant",
    "after": "From, UTC",
    "before": "To, UTC",
}
"""Name, and what the form calls it."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What was asked for: as it was written, as it is meant, and what of it makes no sense."""

    written: Mapping[str, str]
    search: JobSearch
    problems: list[str]


def read(written: Mapping[str, str]) -> Asked:
    """Return the search that the fields given mean; a field that makes no sense is a problem."""
    problems: list[str] = []
    values: dict[str, Any] = {}
    for field, (name, parse) in _PARSERS.items():
        text = written.get(field)
        if text is None:
            continue
        try:
            values[name] = parse(text)
        except ValueError as error:
            problems.append(f"{FIELDS[field]}: {text[:80]!r} {error}")
    return Asked(written, JobSearch(**values), problems)


def _state(text: str) -> JobState:
    try:
        return JobState(text)
    except ValueError:
        raise ValueError(f"is no state; there are {', '.join(JobState)}") from None


def _label(text: str) -> str:
    if "\0" in text:
        raise ValueError("holds a character that no label has")
    return text


def _model(text: str) -> tuple[str, str]:
    name, slash, version = text.partition("/")
    if not (slash and name and version):
        raise ValueError("is not of the form name/version")
    return name, version


def _id(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise ValueError("is not an id") from None


def _time(text: str) -> datetime:
    try:
        time = datetime.fromisoformat(text)
        time = (time if time.tzinfo else time.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        raise ValueError("is no time, as in 2026-01-31T12:00") from None
    if not 2000 <= time.year <= 2200:
        raise ValueError("is not a time of this system")
    return time


def _share(text: str) -> float:
    try:
        per_cent = float(text.removesuffix("%"))
    except ValueError:
        raise ValueError("is not a number of per cent") from None
    if not 0 <= per_cent <= 100:
        raise ValueError("is not between 0 and 100 per cent")
    return per_cent / 100


_PARSERS: Final[Mapping[str, tuple[str, Callable[[str], Any]]]] = {
    "state": ("state", _state),
    "label": ("label", _label),
    "model": ("model", _model),
    "submission": ("submission_id", _id),
    "tenant": ("tenant", _label),
    "after": ("created_after", _time),
    "before": ("created_before", _time),
    "min": ("min_probability", _share),
}
