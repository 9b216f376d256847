"""The first planned start that a job was told; windows that recur; why a node was drained."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("jobs", sa.Column("told_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("jobs", sa.Column("told_start_at", sa.DateTime(timezone=True), nullable=True))
    op.create_index(
        "ix_jobs_told",
        "jobs",
        ["first_started_at"],
        unique=False,
        postgresql_where=sa.text("told_at IS NOT NULL AND first_started_at IS NOT NULL"),
    )
    op.add_column("windows", sa.Column("repeats", postgresql.JSONB(astext_type=sa.Text()), nullable=True))
    op.add_column("nodes", sa.Column("drained_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("nodes", sa.Column("drain_reason", sa.Text(), nullable=True))


def downgrade() -> None:
    op.drop_column("nodes", "drain_reason")
    op.drop_column("nodes", "drained_at")
    op.drop_column("windows", "repeats")
    op.drop_index("ix_jobs_told", table_name="jobs")
    op.drop_column("jobs", "told_start_at")
    op.drop_column("jobs", "told_at")
