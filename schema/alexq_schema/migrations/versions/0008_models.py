"""Models that change while workers run: what a worker refused to serve, and why; jobs that name a version,
and how they are to be classified.

Revision: 0008, after 0006. It only adds columns that may stay empty, so processes of 0006 go on beside it.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0008"
down_revision = "0006"


def upgrade() -> None:
    op.add_column("workers", sa.Column("refused_model", sa.String(length=129), nullable=True))
    op.add_column("workers", sa.Column("refused_reason", sa.Text(), nullable=True))
    op.add_column("jobs", sa.Column("pinned_model", sa.String(length=129), nullable=True))
    json = sa.JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")
    op.add_column("jobs", sa.Column("options", json, nullable=True))


def downgrade() -> None:
    op.drop_column("jobs", "options")
    op.drop_column("jobs", "pinned_model")
    op.drop_column("workers", "refused_reason")
    op.drop_column("workers", "refused_model")
