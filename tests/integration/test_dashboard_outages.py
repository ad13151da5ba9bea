"""What is away is said, soon, in its place; and what is back shows by itself."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from sqlalchemy import make_url, text

from alexq_schema.db.session import Database
from alexq_schema.settings import Settings
from tests.helpers.eventually import eventually
from tests.helpers.html import parse
from tests.helpers.monitor import MonitorProcess, running_monitor
from tests.helpers.ports import free_port
from tests.helpers.processes import stopped_server
from tests.helpers.system import System

LONGEST_S = 60.0


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Workers without a process do not become silent by themselves while a test runs."""
    return settings.model_copy(update={"silent_after_s": 300.0})


@pytest.fixture
def monitor(settings: Settings, tmp_path: Path) -> Iterator[MonitorProcess]:
    with running_monitor(settings, tmp_path / "monitor.log") as monitor:
        yield monitor


def said(monitor: MonitorProcess) -> str:
    """Return what the overview says; that it says it in time is the contract."""
    began_at = time.monotonic()
    answer = monitor.get("/overview")
    assert time.monotonic() - began_at < LONGEST_S
    assert answer.status_code == 200
    return " ".join(parse(answer.text).text.split())


def test_a_database_that_is_not_there_is_said_on_every_page(settings: Settings, tmp_path: Path) -> None:
    port = free_port()
    away = {"database_url": f"postgresql://x:secret@127.0.0.1:{port}/x", "monitor_admin": True}
    settings = settings.model_copy(update=away)
    with running_monitor(settings, tmp_path / "monitor.log") as monitor:
        overview = said(monitor)
        assert "The database cannot be read" in overview
        assert "alexq doctor" in overview
        assert "secret" not in overview
        for path in ("/results", "/submissions", "/batches", "/dead", "/models"):
            answer = monitor.get(path)
            assert answer.status_code == 503, path
            assert "does not answer" in parse(answer.text).text
            assert "secret" not in answer.text
            part = monitor.get(path, **{"X-Alexq-Fragment": "1"})
            assert part.status_code == 503
            assert "<" not in part.text
        token = {"_xsrf": monitor.client.cookies["_xsrf"]}
        action = monitor.client.post("/dead/redrive", data={"which": "all", **token})
        assert action.status_code == 503
        assert "look before you press again. Back to Dead jobs" in parse(action.text).text
        assert "comes back by itself" not in action.text
        assert monitor.get("/workers").status_code == 200


def test_a_postgresql_that_hangs_is_said_in_time_and_back_by_itself(
    postgres_url: str, broker_url: str, tmp_path: Path
) -> None:
    settings = Settings.load(data_dir=tmp_path, database_url=postgres_url, broker_url=broker_url)
    database = Database(postgres_url)
    with database.read() as connection:
        pid = connection.execute(text("SELECT pg_backend_pid()")).scalar_one()
    server = psutil.Process(psutil.Process(pid).ppid())
    with running_monitor(settings, tmp_path / "monitor.log") as monitor:
        assert "No worker has ever reported" in said(monitor)
        frozen: list[psutil.Process] = []
        server.suspend()
        try:
            frozen += server.children()  # it makes no others any more
            for process in frozen:
                with suppress(psutil.NoSuchProcess):
                    process.suspend()
            eventually(lambda: "The database cannot be read" in said(monitor), timeout_s=150)
        finally:
            for process in [*frozen, server]:
                with suppress(psutil.NoSuchProcess):
                    process.resume()
        eventually(lambda: "No worker has ever reported" in said(monitor), timeout_s=150)
    database.close()


def test_a_file_that_was_taken_away_is_said_though_it_is_still_open(
    sqlite_url: str, broker_url: str, tmp_path: Path
) -> None:
    database = Database(sqlite_url)
    System(database).queue(3)
    database.close()
    settings = Settings.load(data_dir=tmp_path, database_url=sqlite_url, broker_url=broker_url)
    file = Path(make_url(sqlite_url).database or "")
    elsewhere = tmp_path / "elsewhere.db"
    with running_monitor(settings, tmp_path / "monitor.log") as monitor:
        assert "Waiting 3" in said(monitor)
        shutil.copy(file, elsewhere)
        file.unlink()
        overview = eventually(lambda: "cannot be read" in (it := said(monitor)) and it)
        assert f"the file {file} is not there" in overview
        assert "alexq migrate" in overview
        page = monitor.get("/results")
        assert page.status_code == 503
        assert "<code>alexq migrate</code>" in page.text
        elsewhere.rename(file)
        eventually(lambda: "Waiting 3" in said(monitor))


def test_a_broker_that_hangs_is_said_and_the_rest_goes_on(
    settings: Settings, database: Database, monitor: MonitorProcess
) -> None:
    System(database).queue(3)
    with stopped_server(settings.broker_url):
        eventually(lambda: "The broker cannot be reached" in said(monitor))
        overview = said(monitor)
        assert "Redis does not answer." in overview
        assert "Waiting 3" in overview
    eventually(lambda: "The broker cannot be reached" not in said(monitor))


def test_workers_that_are_gone_are_said(database: Database, monitor: MonitorProcess) -> None:
    system = System(database)
    eventually(lambda: "Workers alive: 2" in said(monitor))
    system.silence(system.worker, for_s=301.0)
    system.silence(system.other, for_s=301.0)
    system.queue(5)
    overview = eventually(lambda: (it := said(monitor)) and "No worker has reported" in it and it)
    assert "and 5 jobs wait" in overview
    assert "Start one with alexq worker" in overview


def test_a_table_that_is_missing_says_migrate(settings: Settings, tmp_path: Path) -> None:
    settings = settings.model_copy(update={"database_url": f"sqlite:///{tmp_path / 'empty.db'}"})
    with running_monitor(settings, tmp_path / "monitor.log") as monitor:
        assert "alexq migrate" in said(monitor)
