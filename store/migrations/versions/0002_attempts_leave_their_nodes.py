"""Attempts leave their nodes after a while."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("attempts", sa.Column("removed_at", sa.DateTime(timezone=True), nullable=True))
    op.create_index(
        "ix_attempts_kept",
        "attempts",
        ["ended_at", "id"],
        unique=False,
        postgresql_where=sa.text("removed_at IS NULL"),
    )


def downgrade() -> None:
    op.drop_index("ix_attempts_kept", table_name="attempts", postgresql_where=sa.text("removed_at IS NULL"))
    op.drop_column("attempts", "removed_at")
