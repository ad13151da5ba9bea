"""The error tree holds together."""

from __future__ import annotations

import re

from alexq_schema import errors
from alexq_schema.errors import AlexqError, FailedError, RejectedError


def every_class(base: type[AlexqError] = AlexqError) -> set[type[AlexqError]]:
    return {base}.union(*(every_class(child) for child in base.__subclasses__()))


def test_every_code_is_its_own() -> None:
    codes = [kind.code for kind in every_class()]

    assert len(codes) == len(set(codes))


def test_nothing_is_both_rejected_and_failed() -> None:
    assert not every_class(RejectedError) & every_class(FailedError)


def test_the_callers_faults_are_never_retryable() -> None:
    assert not any(kind.is_retryable for kind in every_class(RejectedError))


def test_the_drawing_at_the_top_is_the_tree() -> None:
    assert errors.__doc__ is not None
    drawn = set(re.findall(r"(\w+Error)\b", errors.__doc__))

    assert drawn == {kind.__name__ for kind in every_class() if kind.__module__ == errors.__name__}
