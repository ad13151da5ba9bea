"""Filters: what makes sense is meant, what makes none is named."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID

import pytest

from alexq_monitor.pages import asking
from alexq_schema.db.search import JobSearch
from alexq_schema.job import JobState

ID = "019a0000-0000-7000-8000-000000000001"


def test_every_field_is_read() -> None:
    asked = asking.read(
        {
            "state": "failed", "label": "tabby", "model": "alexnet/v1", "submission": ID, "tenant": "shop",
            "after": "2026-01-02T03:04", "before": "2026-01-02T05:00:00+02:00", "min": "50%",
        }
    )  # fmt: skip
    assert not asked.problems
    assert asked.search == JobSearch(
        state=JobState.FAILED, label="tabby", model=("alexnet", "v1"), submission_id=UUID(ID), tenant="shop",
        created_after=datetime(2026, 1, 2, 3, 4, tzinfo=UTC),
        created_before=datetime(2026, 1, 2, 3, 0, tzinfo=UTC), min_probability=0.5,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("field", "text"),
    [
        ("state", "done"), ("label", "a\0b"), ("model", "alexnet"), ("model", "/v1"), ("submission", "1"),
        ("after", "yesterday"), ("after", "0001-01-01T00:00"), ("before", "9999-12-31T23:59:59-14:00"),
        ("min", "a lot"), ("min", "101"), ("min", "nan"), ("min", "-1"), ("min", "1e400"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_named(field: str, text: str) -> None:
    asked = asking.read({field: text})
    (problem,) = asked.problems
    assert problem.startswith(f"{asking.FIELDS[field]}: ")
    assert asked.search == JobSearch()
