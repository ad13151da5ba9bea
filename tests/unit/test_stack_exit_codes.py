"""How a command ends."""

from __future__ import annotations

import pytest

from alexq.cli import main as command_line
from alexq.cli.main import exit_code
from alexq_schema import errors
from alexq_schema.errors import AlexqError


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.ModelNotFoundError, 1),
        (errors.JobNotFoundError, 1),
        (errors.UsageError, 2),
        (errors.SettingsError, 2),
        (errors.BrokerUnavailableError, 3),
        (errors.DatabaseUnavailableError, 3),
        (errors.StackNotRunningError, 3),
        (errors.StackError, 3),
        (errors.StackRunningError, 4),
    ],
)
def test_each_error_has_its_exit_code(error: type[AlexqError], code: int) -> None:
    assert exit_code(error("wrong")) == code


def run(monkeypatch: pytest.MonkeyPatch, raised: BaseException) -> int:
    def fail(**_: object) -> None:
        raise raised

    monkeypatch.setitem(command_line.__globals__, "app", fail)
    return command_line()


def test_an_error_is_one_line_on_stderr(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, errors.ModelInvalidError("two\nlines [bold]")) == 1
    shown = capsys.readouterr()
    assert shown.err == "error [model_invalid]: two lines [bold]\n"
    assert shown.out == ""


def test_ctrl_c_ends_with_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, KeyboardInterrupt()) == 130
    assert capsys.readouterr().err == ""
