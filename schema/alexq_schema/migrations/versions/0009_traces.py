"""The trace that a job was handed in by.

Revision: 0009, after 0008. A column that may be NULL, last in the table and named by nobody before, so
processes of 0008 go on beside it.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    op.add_column("jobs", sa.Column("traceparent", sa.String(length=55), nullable=True))


def downgrade() -> None:
    op.drop_column("jobs", "traceparent")
