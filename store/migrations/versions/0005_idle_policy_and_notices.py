"""Idle jobs: the policy's versions, notices, each GPU's idle stretch, interactive jobs."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "jobs", sa.Column("is_interactive", sa.Boolean(), server_default=sa.false(), nullable=False)
    )
    op.add_column(
        "attempt_telemetry",
        sa.Column(
            "idle",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default=sa.text("'{}'::jsonb"),
            nullable=False,
        ),
    )
    op.create_table(
        "idle_policies",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("document", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("set_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("set_by", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_idle_policies")),
    )
    # A version that could be changed afterwards would rewrite what notices were given under.
    op.execute(
        "CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON idle_policies "
        "FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
    )
    op.create_table(
        "idle_notices",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("job_id", sa.BigInteger(), nullable=False),
        sa.Column("attempt_id", sa.Text(), nullable=False),
        sa.Column("step", sa.Text(), nullable=False),
        sa.Column("is_dry_run", sa.Boolean(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("policy_id", sa.BigInteger(), nullable=True),
        sa.Column("idle_s", sa.BigInteger(), nullable=False),
        sa.Column("idle_gpus", sa.Integer(), nullable=False),
        sa.Column("gpus", sa.Integer(), nullable=False),
        sa.Column("next_step", sa.Text(), nullable=True),
        sa.Column("next_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("returned_s", sa.BigInteger(), nullable=True),
        sa.Column("cleared_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "step IN ('notice', 'second_notice', 'cancel')", name=op.f("ck_idle_notices_step")
        ),
        sa.CheckConstraint(
            "returned_s IS NULL OR step = 'cancel'", name=op.f("ck_idle_notices_returned_by_cancel")
        ),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_idle_notices_job_id_jobs")),
        sa.ForeignKeyConstraint(
            ["attempt_id"], ["attempts.id"], name=op.f("fk_idle_notices_attempt_id_attempts")
        ),
        sa.ForeignKeyConstraint(
            ["policy_id"], ["idle_policies.id"], name=op.f("fk_idle_notices_policy_id_idle_policies")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_idle_notices")),
    )
    op.create_index(
        "uq_idle_notices_open",
        "idle_notices",
        ["attempt_id", "step", "is_dry_run"],
        unique=True,
        postgresql_where=sa.text("cleared_at IS NULL"),
    )
    op.create_index("ix_idle_notices_job", "idle_notices", ["job_id", "id"], unique=False)


def downgrade() -> None:
    op.drop_index("ix_idle_notices_job", table_name="idle_notices")
    op.drop_index(
        "uq_idle_notices_open", table_name="idle_notices", postgresql_where=sa.text("cleared_at IS NULL")
    )
    op.drop_table("idle_notices")
    op.execute("DROP TRIGGER append_only ON idle_policies")
    op.drop_table("idle_policies")
    op.drop_column("attempt_telemetry", "idle")
    op.drop_column("jobs", "is_interactive")
