"""The planner in time: notices, planned starts, dependencies, arrays, operators' acts, windows, decayed use."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0008"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("jobs", sa.Column("begin_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column(
        "jobs",
        sa.Column("depends_on", postgresql.JSONB(astext_type=sa.Text()), nullable=False, server_default="[]"),
    )
    op.add_column("jobs", sa.Column("array_id", sa.BigInteger(), nullable=True))
    op.add_column("jobs", sa.Column("array_index", sa.Integer(), nullable=True))
    op.add_column("jobs", sa.Column("array_cap", sa.Integer(), nullable=True))
    op.add_column("jobs", sa.Column("reservation", postgresql.JSONB(astext_type=sa.Text()), nullable=True))
    op.add_column("jobs", sa.Column("preemptions", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("attempts", sa.Column("admitted_seq", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("attempts", sa.Column("grace_s", sa.BigInteger(), nullable=False, server_default="0"))
    op.add_column("attempts", sa.Column("reclaimed_by", sa.BigInteger(), nullable=True))
    op.add_column("attempts", sa.Column("notice_ends_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("attempts", sa.Column("notice_sent_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("attempts", sa.Column("refund_cap_s", sa.BigInteger(), nullable=False, server_default="0"))
    op.add_column("attempts", sa.Column("refunded_s", sa.BigInteger(), nullable=False, server_default="0"))
    op.create_index("ix_attempts_admitted", "attempts", ["admitted_at"], unique=False)
    for table, column in (
        ("jobs", "depends_on"),
        ("jobs", "preemptions"),
        ("attempts", "admitted_seq"),
        ("attempts", "grace_s"),
        ("attempts", "refund_cap_s"),
        ("attempts", "refunded_s"),
    ):
        op.alter_column(table, column, server_default=None)
    op.create_table(
        "operator_acts",
        sa.Column("id", sa.BigInteger(), sa.Identity(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("job_id", sa.BigInteger(), nullable=True),
        sa.Column("queue", sa.Text(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("(job_id IS NULL) <> (queue IS NULL)", name=op.f("ck_operator_acts_one_target")),
        sa.CheckConstraint("expires_at > created_at", name=op.f("ck_operator_acts_period")),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_operator_acts_job_id_jobs")),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_operator_acts_user_id_users")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_operator_acts")),
    )
    op.create_table(
        "windows",
        sa.Column("id", sa.BigInteger(), sa.Identity(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("nodes", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column("projects", postgresql.ARRAY(sa.Uuid()), nullable=False),
        sa.Column("from_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("to_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("removed_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("to_at > from_at", name=op.f("ck_windows_period")),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_windows_user_id_users")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_windows")),
    )
    op.create_table(
        "queue_usage",
        sa.Column("queue", sa.Text(), nullable=False),
        sa.Column("used_gpu_ms", sa.BigInteger(), nullable=False),
        sa.Column("sampled_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("queue", name=op.f("pk_queue_usage")),
    )


def downgrade() -> None:
    op.drop_table("queue_usage")
    op.drop_table("windows")
    op.drop_table("operator_acts")
    op.drop_index("ix_attempts_admitted", table_name="attempts")
    for column in (
        "refunded_s",
        "refund_cap_s",
        "notice_sent_at",
        "notice_ends_at",
        "reclaimed_by",
        "grace_s",
        "admitted_seq",
    ):
        op.drop_column("attempts", column)
    for column in (
        "preemptions",
        "reservation",
        "array_cap",
        "array_index",
        "array_id",
        "depends_on",
        "begin_at",
    ):
        op.drop_column("jobs", column)
