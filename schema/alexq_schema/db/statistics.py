"""What PostgreSQL believes about the size of tables, kept true while they grow.

A prepared statement keeps its plan until the server has counted the table again. One that was planned for
a few rows reads the whole table to find a job by its id, and goes on so when a hundred thousand have come:
1.2 s for a commit of 64. The server's autovacuum counts a minute later, or later than that.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, text

from alexq_schema.db.tables import Base

PAGES = 16
"""Up to this size, reading the whole table costs as little as going by an index."""

_GROWN = text("""
    SELECT relname FROM pg_class
    WHERE oid IN (SELECT to_regclass(name) FROM unnest(CAST(:names AS text[])) AS name)
      AND pg_relation_size(oid) > current_setting('block_size')::bigint * greatest(2 * relpages, :pages)
      AND pg_has_role(relowner, 'USAGE')
    ORDER BY relname
""")


def refresh(connection: Connection) -> Sequence[str]:
    """Count those tables anew that have doubled since they were counted; every session then plans anew.

    SQLite does not count, and plans as if every table were large.

    Returns:
        Their names.
    """
    if connection.dialect.name != "postgresql":
        return []
    tables = {"names": list(Base.metadata.tables), "pages": PAGES}
    grown = connection.execute(_GROWN, tables).scalars().all()
    for table in grown:  # but for one that autovacuum has in hand: it counts by itself
        connection.execute(text(f"ANALYZE (SKIP_LOCKED) {table}"))
    return grown
