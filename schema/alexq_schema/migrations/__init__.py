"""Schema migrations (Alembic), shipped in the wheel. The only way the tables are made."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import Script, ScriptDirectory

from alexq_schema.db.session import Database
from alexq_schema.errors import MigrationError


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    return config


def head() -> str:
    """Return the revision that this release needs."""
    revision = ScriptDirectory.from_config(_config()).get_current_head()
    assert revision is not None
    return revision


def current(database_url: str) -> str | None:
    """Return the database's revision, or None if it has no alexq tables.

    Raises:
        DatabaseUnavailableError: it does not answer.
    """
    database = Database(database_url)
    try:
        with database.read() as connection:
            return MigrationContext.configure(connection).get_current_revision()
    finally:
        database.close()


def upgrade(database_url: str) -> None:
    """Bring the database to this release's schema; a database that is there already is left alone.

    Raises:
        DatabaseUnavailableError: it does not answer.
        MigrationError: it was written by a newer release.
    """
    level = current(database_url)
    if level is not None and level not in {s.revision for s in _scripts()}:
        raise MigrationError(
            f"the database is at revision {level}, which this release does not know: upgrade alexq"
        )
    database = Database(database_url)
    try:
        with database.begin() as connection:
            config = _config()
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
    finally:
        database.close()


def require_head(database_url: str) -> None:
    """Check that the database has this release's schema.

    Raises:
        DatabaseUnavailableError: it does not answer.
        MigrationError: it has another; says what to do.
    """
    level = current(database_url)
    if level != head():
        raise MigrationError(
            f"the database is at revision {level or 'none'}, this release needs {head()}: run `alexq migrate`"
        )


def _scripts() -> list[Script]:
    return list(ScriptDirectory.from_config(_config()).walk_revisions())
