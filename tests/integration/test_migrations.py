"""Migrations make the tables that the code declares, on SQLite and PostgreSQL."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import text

from alexq_schema import migrations
from alexq_schema.db.session import Database
from alexq_schema.db.tables import Base
from alexq_schema.errors import DatabaseUnavailableError, MigrationError, SettingsError


@pytest.fixture(params=["sqlite", "postgres"])
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A database without tables."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'empty.db'}"
    else:
        with request.getfixturevalue("postgres_server").database() as url:
            yield url


def test_migrations_and_tables_agree(database: Database) -> None:
    with database.begin() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []


def test_an_empty_database_is_refused_until_it_is_migrated(empty_url: str) -> None:
    with pytest.raises(MigrationError, match="alexq migrate"):
        migrations.require_usable(empty_url)

    migrations.upgrade(empty_url)
    migrations.upgrade(empty_url)

    migrations.require_usable(empty_url)


def test_alexq_migrate_started_three_times_at_once_makes_one_schema(empty_url: str) -> None:
    env = {**os.environ, "ALEXQ_DATABASE_URL": empty_url, "ALEXQ_BROKER_URL": "redis://127.0.0.1:1"}
    command = [sys.executable, "-m", "alexq", "migrate"]
    upgrades = [subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True) for _ in range(3)]

    said = [(upgrade.communicate(timeout=200)[1].strip(), upgrade.returncode) for upgrade in upgrades]

    assert {(text.partition("→ ")[2], code) for text, code in said} == {(migrations.head(), 0)}
    migrations.require_usable(empty_url)


def test_an_upgrade_of_sqlite_waits_for_another_as_long_as_that_may_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"sqlite:///{tmp_path / 'empty.db'}"
    other = Database(url)
    with ThreadPoolExecutor(1) as thread:
        with other.begin():
            monkeypatch.setattr(migrations, "WAIT_S", 0.1)
            with pytest.raises(DatabaseUnavailableError, match="locked"):
                migrations.upgrade(url)
            monkeypatch.setattr(migrations, "WAIT_S", 60.0)
            upgrading = thread.submit(migrations.upgrade, url)
        upgrading.result(150)
    other.close()

    migrations.require_usable(url)


def test_the_database_of_a_newer_release_is_left_alone(database: Database, database_url: str) -> None:
    with database.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))

    with pytest.raises(MigrationError, match="upgrade alexq"):
        migrations.upgrade(database_url)


def test_a_database_that_is_not_there_is_a_clear_error() -> None:
    with pytest.raises(DatabaseUnavailableError, match="does not answer"):
        migrations.current("postgresql://nobody@127.0.0.1:9/none")


@pytest.mark.parametrize("url", ["", "nonsense", "mysql://h/d", "sqlite+nothing:///x"])
def test_a_url_that_is_none_is_named(url: str) -> None:
    with pytest.raises(SettingsError, match="ALEXQ_DATABASE_URL"):
        migrations.current(url)
