"""Named queues: a job waits in one, a worker serves one, and an API key leads to one.

Revision: 0010, after 0009. Columns with a default, last in their tables and named by nobody before, so
processes of 0009 go on beside it: they know the default queue only, and take every job for one of its.
The index of what waits begins with the queue, as the sweeper looks through one queue after the other.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"

INDEX = "ix_jobs_unclaimed"


def upgrade() -> None:
    # Dropped first: that takes the table's strongest lock at once, so that nobody can deadlock with it.
    op.drop_index(INDEX, "jobs")
    for table in ("jobs", "workers", "api_keys"):
        op.add_column(table, sa.Column("queue", sa.String(length=32), nullable=False, server_default=""))
    _index(["queue", "lane", "published_at", "retry_at", "id"])


def downgrade() -> None:
    op.drop_index(INDEX, "jobs")
    for table in ("api_keys", "workers", "jobs"):
        op.drop_column(table, "queue")
    _index(["lane", "published_at", "retry_at", "id"])


def _index(columns: list[str]) -> None:
    is_queued = sa.text("state = 'queued'")
    op.create_index(INDEX, "jobs", columns, sqlite_where=is_queued, postgresql_where=is_queued)
