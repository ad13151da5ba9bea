"""What workers use of their device's memory, and how many images they take at once.

Revision: 0007, after 0006. It only adds columns that may stay empty, so workers of 0006 go on beside it.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"

COLUMNS = ("memory_used_bytes", "memory_total_bytes")


def upgrade() -> None:
    for name in COLUMNS:
        op.add_column("workers", sa.Column(name, sa.BigInteger(), nullable=True))
    op.add_column("workers", sa.Column("batch_limit", sa.Integer(), nullable=True))


def downgrade() -> None:
    op.drop_column("workers", "batch_limit")
    for name in COLUMNS:
        op.drop_column("workers", name)
