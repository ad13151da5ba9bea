"""Two lanes: jobs that someone waits for go before submissions of many.

Revision: 0003, after 0002. It only adds a column with a default, so workers of 0002 go on beside it.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.add_column("jobs", sa.Column("lane", sa.String(length=16), nullable=False, server_default="bulk"))


def downgrade() -> None:
    op.drop_column("jobs", "lane")
