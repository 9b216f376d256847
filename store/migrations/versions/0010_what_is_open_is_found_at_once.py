"""Partial indexes over what is open: planned starts, stops and notices under way, however much has ended."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("ix_jobs_reserved", "jobs", ["id"], postgresql_where=sa.text("reservation IS NOT NULL"))
    op.create_index("ix_jobs_pending", "jobs", ["project_id"], postgresql_where=sa.text("state = 'PENDING'"))
    op.create_index(
        "ix_attempts_stopping",
        "attempts",
        ["id"],
        postgresql_where=sa.text("stop_why IS NOT NULL AND ended_at IS NULL"),
    )
    op.create_index(
        "ix_attempts_noticed",
        "attempts",
        ["notice_ends_at"],
        postgresql_where=sa.text("reclaimed_by IS NOT NULL AND ended_at IS NULL"),
    )


def downgrade() -> None:
    op.drop_index("ix_attempts_noticed", table_name="attempts")
    op.drop_index("ix_attempts_stopping", table_name="attempts")
    op.drop_index("ix_jobs_pending", table_name="jobs")
    op.drop_index("ix_jobs_reserved", table_name="jobs")
