"""A process that cannot serve says why, and ends as commands do."""

from __future__ import annotations

import pytest

from alexq_schema import process
from alexq_schema.errors import AlexqError, DatabaseUnavailableError, MigrationError, SettingsError


@pytest.mark.parametrize(
    ("error", "code"), [(SettingsError, 2), (DatabaseUnavailableError, 3), (MigrationError, 3)]
)
def test_the_exit_code_says_whether_a_service_was_away(
    error: type[AlexqError], code: int, caplog: pytest.LogCaptureFixture
) -> None:
    def serve() -> None:
        raise error("no such thing")

    assert process.run(serve) == code
    assert caplog.messages == [f"error [{error.code}]: no such thing"]


def test_who_has_served_ends_with_0() -> None:
    assert process.run(lambda: None) == 0
