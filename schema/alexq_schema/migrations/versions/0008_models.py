"""Models that change while workers run: what a worker refused to serve, and why; jobs that name a version,
and how they are to be classified; what a version that is tried says.

Revision: 0008, after 0007. It only adds columns that may stay empty, so processes of 0007 go on beside it.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

from alexq_schema.db.clock import UtcDateTime

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    op.add_column("workers", sa.Column("refused_model", sa.String(length=129), nullable=True))
    op.add_column("workers", sa.Column("refused_reason", sa.Text(), nullable=True))
    op.add_column("jobs", sa.Column("pinned_model", sa.String(length=129), nullable=True))
    json = sa.JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")
    op.add_column("jobs", sa.Column("options", json, nullable=True))
    op.create_table(
        "canary_results",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("model_id", sa.Integer(), nullable=False),
        sa.Column("at", UtcDateTime(), nullable=False),
        sa.Column("label", sa.String(length=255), nullable=True),
        sa.Column("probability", sa.Double(), nullable=True),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["model_id"], ["model_versions.id"]),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("model_id", "job_id"),
    )
    op.create_index("ix_canary_results_job", "canary_results", ["job_id"], unique=False)


def downgrade() -> None:
    op.drop_table("canary_results")
    op.drop_column("jobs", "options")
    op.drop_column("jobs", "pinned_model")
    op.drop_column("workers", "refused_reason")
    op.drop_column("workers", "refused_model")
