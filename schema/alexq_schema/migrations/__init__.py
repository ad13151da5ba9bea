"""Schema migrations (Alembic), shipped in the wheel. The only way the tables are made."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import Script, ScriptDirectory
from sqlalchemy import select

from alexq_schema.db.session import Database
from alexq_schema.db.tables import SchemaCompatibility
from alexq_schema.errors import DatabaseFullError, DatabaseUnavailableError, MigrationError

WAIT_S = 3600.0
"""How long one migration of SQLite waits for another, which may build indexes over millions of rows."""


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
    """Return the database's revision, or None if it has no alexq tables. The first question of each process.

    Raises:
        DatabaseUnavailableError: it does not answer; says what to do.
    """
    database = Database(database_url)
    try:
        with database.read() as connection:
            return MigrationContext.configure(connection).get_current_revision()
    except DatabaseFullError:
        raise
    except DatabaseUnavailableError as error:
        raise DatabaseUnavailableError(
            f"{error}; start it, or correct ALEXQ_DATABASE_URL and ALEXQ_DATABASE_PASSWORD"
        ) from error
    finally:
        database.close()


def upgrade(database_url: str) -> None:
    """Bring the database to this release's schema; a database that is there already is left alone.

    Of two at once, one waits and then finds nothing to do: SQLite has one writer, and PostgreSQL's second
    waits for a lock (``env.py``).

    Raises:
        DatabaseUnavailableError: it does not answer.
        MigrationError: it was written by a newer release.
    """
    level = current(database_url)
    if level is not None and level not in {s.revision for s in _scripts()}:
        raise MigrationError(
            f"the database is at revision {level}, which this release does not know, and alexq does not "
            "downgrade a database (columns in use would be lost): upgrade alexq"
        )
    database = Database(database_url, sqlite_wait_s=WAIT_S)
    try:
        with database.begin() as connection:
            config = _config()
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
    finally:
        database.close()


def require_usable(database_url: str) -> None:
    """Check that this release may work on the database: its own schema, or a newer one that only added.

    A change is made in three steps, so that nothing stops: the newer release's ``alexq migrate`` adds what
    it needs (expand) and processes of this release go on; they are replaced; a later release's migration
    removes what nobody reads (contract) and notes the oldest revision that may still work.

    Raises:
        DatabaseUnavailableError: it does not answer.
        MigrationError: it is older, or too new; says what to do.
    """
    level = current(database_url)
    if level == head():
        return
    if level is not None and level not in {script.revision for script in _scripts()}:
        if _oldest_usable(database_url) <= head():
            return
        raise MigrationError(
            f"the database is at revision {level}, too new for this release, which needs {head()}: "
            "upgrade alexq"
        )
    raise MigrationError(
        f"the database is at revision {level or 'none'}, this release needs {head()}: run `alexq migrate`"
    )


def _oldest_usable(database_url: str) -> str:
    database = Database(database_url)
    try:
        with database.read() as connection:
            return connection.execute(select(SchemaCompatibility.oldest_revision)).scalar_one()
    finally:
        database.close()


def _scripts() -> list[Script]:
    return list(ScriptDirectory.from_config(_config()).walk_revisions())
