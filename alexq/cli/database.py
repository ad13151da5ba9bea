"""The database that commands for operators work on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from alexq.cli.options import DataDir, given

if TYPE_CHECKING:
    from alexq_schema.db.session import Database
    from alexq_schema.settings import Settings


@contextmanager
def opened(data_dir: DataDir) -> Iterator[tuple[Database, Settings]]:
    """Yield the database of the settings or of the running stack, and those settings."""
    from alexq_schema.db.session import Database
    from alexq_schema.settings import Settings

    settings = Settings.connected(**given(data_dir=data_dir))
    database = Database(settings.database_url)
    try:
        yield database, settings
    finally:
        database.close()
