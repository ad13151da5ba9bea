"""Results that may answer later jobs of the same image; which job's answered one; keys that ask for it.

Revision: 0011, after 0010. It only adds, and what it adds may stay empty, so processes of 0010 go on.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

from alexq_schema.db.clock import UtcDateTime

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    op.create_table(
        "past_results",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("image_key", sa.String(length=64), nullable=False),
        sa.Column("tenant", sa.String(length=64), nullable=False),
        sa.Column("model_id", sa.Integer(), nullable=False),
        sa.Column("options", sa.Text(), nullable=False),
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("finished_at", UtcDateTime(), nullable=False),
        sa.Column("predictions", sa.JSON().with_variant(JSONB(), "postgresql"), nullable=False),
        sa.ForeignKeyConstraint(["model_id"], ["model_versions.id"]),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("image_key", "tenant", "model_id", "options"),
    )
    op.create_index("ix_past_results_finished", "past_results", ["finished_at"], unique=False)
    op.add_column("jobs", sa.Column("reused_from", sa.Uuid(), nullable=True))
    op.add_column("api_keys", sa.Column("reuse", sa.Boolean(), server_default=sa.false(), nullable=False))


def downgrade() -> None:
    op.drop_column("api_keys", "reuse")
    op.drop_column("jobs", "reused_from")
    op.drop_table("past_results")
