"""Models that change while workers run: what a worker refused to serve, and why; jobs that name a version.

Revision: 0008, after 0007. It only adds columns that may stay empty, so processes of 0006 go on beside it.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    op.add_column("workers", sa.Column("refused_model", sa.String(length=129), nullable=True))
    op.add_column("workers", sa.Column("refused_reason", sa.Text(), nullable=True))
    op.add_column("jobs", sa.Column("pinned_model", sa.String(length=129), nullable=True))


def downgrade() -> None:
    op.drop_column("jobs", "pinned_model")
    op.drop_column("workers", "refused_reason")
    op.drop_column("workers", "refused_model")
