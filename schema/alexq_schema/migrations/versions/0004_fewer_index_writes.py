"""Indexes that a job enters when it is accepted and when it ends, instead of at every step.

Revision: 0004, after 0003. No column changes, and no statement depends on an index to be right, so
workers of 0003 go on beside it: their statements find other indexes, or read more rows meanwhile.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    # Dropped first: that takes the table's strongest lock at once, so that nobody can deadlock with it.
    for name in ("state", "submission", "label", "created", "queued"):
        op.drop_index(f"ix_jobs_{name}", "jobs")
    op.create_index("ix_jobs_in_submission", "jobs", ["submission_id", "id"])
    _partial("ix_jobs_unclaimed", ["lane", "published_at", "retry_at", "id"], "state = 'queued'")
    _partial("ix_jobs_ended", ["state", "id"], "state NOT IN ('queued', 'running')")
    _partial("ix_jobs_finished", ["finished_at"], "finished_at IS NOT NULL")
    _partial("ix_jobs_labelled", ["label", "id"], "label IS NOT NULL")


def downgrade() -> None:
    for name in ("labelled", "finished", "ended", "unclaimed", "in_submission"):
        op.drop_index(f"ix_jobs_{name}", "jobs")
    _partial("ix_jobs_queued", ["published_at"], "state = 'queued'")
    op.create_index("ix_jobs_created", "jobs", ["created_at"])
    op.create_index("ix_jobs_label", "jobs", ["label", "finished_at"])
    op.create_index("ix_jobs_submission", "jobs", ["submission_id", "state"])
    op.create_index("ix_jobs_state", "jobs", ["state", "id"])


def _partial(name: str, columns: list[str], where: str) -> None:
    op.create_index(name, "jobs", columns, sqlite_where=sa.text(where), postgresql_where=sa.text(where))
