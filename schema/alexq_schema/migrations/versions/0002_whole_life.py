"""The whole life of a job: pauses, deadlines, its history, the sweeper's memory, unwell workers.

Revision: 0002, after 0001. It only adds what may stay empty, so workers of 0001 go on beside it.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from alexq_schema.db.clock import UtcDateTime

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.add_column("jobs", sa.Column("retry_at", UtcDateTime(), nullable=True))
    op.add_column("jobs", sa.Column("expires_at", UtcDateTime(), nullable=True))
    op.create_index(
        "ix_jobs_expiring",
        "jobs",
        ["expires_at"],
        unique=False,
        sqlite_where=sa.text("state = 'queued' AND expires_at IS NOT NULL"),
        postgresql_where=sa.text("state = 'queued' AND expires_at IS NOT NULL"),
    )
    op.create_index("ix_jobs_image", "jobs", ["image_key"], unique=False)
    op.add_column("workers", sa.Column("unhealthy_at", UtcDateTime(), nullable=True))
    op.add_column("workers", sa.Column("unhealthy_reason", sa.String(length=255), nullable=True))
    op.create_table(
        "job_events",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("at", UtcDateTime(), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("worker_id", sa.Uuid(), nullable=True),
        sa.Column("code", sa.String(length=64), nullable=True),
        sa.Column("detail", sa.Text(), nullable=True),
        sa.Column("actor", sa.String(length=255), nullable=True),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_job_events_job", "job_events", ["job_id"], unique=False)
    op.create_table(
        "refused_messages",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("at", UtcDateTime(), nullable=False),
        sa.Column("task", sa.String(length=255), nullable=False),
        sa.Column("message_id", sa.String(length=255), nullable=False),
        sa.Column("code", sa.String(length=64), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    sweeper = op.create_table(
        "sweeper",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("holder", sa.Uuid(), nullable=True),
        sa.Column("held_until", UtcDateTime(), nullable=True),
        sa.Column("queue_epoch", sa.String(length=36), nullable=True),
        sa.Column("queue_epoch_began_at", UtcDateTime(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
    )
    op.bulk_insert(sweeper, [{"id": 1}])
    compatibility = op.create_table(
        "schema_compatibility",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("oldest_revision", sa.String(length=32), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.bulk_insert(compatibility, [{"id": 1, "oldest_revision": "0001"}])


def downgrade() -> None:
    for table in ("schema_compatibility", "sweeper", "refused_messages", "job_events"):
        op.drop_table(table)
    op.drop_column("workers", "unhealthy_reason")
    op.drop_column("workers", "unhealthy_at")
    op.drop_index("ix_jobs_image", "jobs")
    op.drop_index("ix_jobs_expiring", "jobs")
    op.drop_column("jobs", "expires_at")
    op.drop_column("jobs", "retry_at")
