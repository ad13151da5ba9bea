"""What queues are called, and what they are not."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from alexq.cli.main import app
from alexq_producer import Producer
from alexq_schema import queues
from alexq_schema.errors import SettingsError, UsageError
from alexq_schema.names import Lane, lane_of, queue_name
from alexq_schema.settings import Settings

WRONG = ["VIP", "a b", "-vip", "vip@gold", "ä", "x" * 33, "vip\n", "vip.bulk", "../etc"]
ALLOWED = "give 1 to 32 of a-z, 0-9 and -, the first no -; an empty one is the default queue"


def test_each_lane_of_a_queue_has_a_name_that_leads_back_to_the_lane() -> None:
    names = {(lane, queue): queue_name(lane, queue) for lane in Lane for queue in ("", "vip", "bulk")}

    assert names[Lane.INTERACTIVE, ""] == "alexq.classify"
    assert names[Lane.BULK, ""] == "alexq.classify.bulk"
    assert names[Lane.INTERACTIVE, "vip"] == "alexq.classify@vip"
    assert names[Lane.BULK, "vip"] == "alexq.classify.bulk@vip"
    assert len(set(names.values())) == len(names)
    assert all(lane_of(name) is lane for (lane, _), name in names.items())


@pytest.mark.parametrize("name", ["", "v", "vip", "gpu-2", "9lives", "x" * 32])
def test_a_short_lower_case_name_is_taken(name: str) -> None:
    assert queues.require(name) == name


@pytest.mark.parametrize("name", WRONG)
def test_another_name_is_refused_with_what_is_allowed(name: str) -> None:
    with pytest.raises(UsageError) as refused:
        queues.require(name)
    assert ALLOWED in str(refused.value)


def test_every_door_refuses_a_wrong_name(settings: Settings) -> None:
    with Producer(settings) as producer:
        for hand_in in (producer.submit, producer.classify):
            with pytest.raises(UsageError, match="'VIP': give 1 to 32"):
                hand_in(b"", queue="VIP")  # type: ignore[operator]
    with pytest.raises(SettingsError, match=r"ALEXQ_QUEUE='VIP': .*give 1 to 32"):
        Settings.load(queue="VIP")


@pytest.fixture
def database_url() -> str:
    """Nothing is asked of it."""
    return "sqlite:////nowhere/alexq.db"


@pytest.fixture
def broker_url() -> str:
    return "redis://nowhere"


@pytest.mark.parametrize(
    "command",
    [
        ["submit", "photo.jpg", "--queue", "VIP"],
        ["keys", "create", "shop", "--queue", "VIP"],
        ["worker", "--queue", "VIP"],
    ],
)
def test_commands_refuse_a_wrong_name_with_exit_code_2(
    command: list[str], settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALEXQ_DATABASE_URL", settings.database_url)
    monkeypatch.setenv("ALEXQ_BROKER_URL", settings.broker_url)

    done = CliRunner().invoke(app, command)

    assert isinstance(done.exception, (UsageError, SettingsError)) or done.exit_code == 2
    assert ALLOWED in str(done.exception) + done.output


def test_over_http_the_key_says_which_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    done = CliRunner().invoke(app, ["submit", "-", "--queue", "vip", "--server", "http://127.0.0.1:1"])

    assert isinstance(done.exception, UsageError)
    assert "the API key leads to its queue" in str(done.exception)
