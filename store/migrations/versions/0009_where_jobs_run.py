"""Where jobs run: labels of nodes, levels of the topology, spread or pack, CPUs and memory per GPU."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "jobs",
        sa.Column(
            "node_labels", postgresql.JSONB(astext_type=sa.Text()), nullable=False, server_default="{}"
        ),
    )
    op.add_column("jobs", sa.Column("topology_required", sa.Text(), nullable=True))
    op.add_column("jobs", sa.Column("topology_preferred", sa.Text(), nullable=True))
    op.add_column("jobs", sa.Column("placement", sa.Text(), nullable=False, server_default="pack"))
    op.add_column("jobs", sa.Column("cpus_per_gpu", sa.Integer(), nullable=True))
    op.add_column("jobs", sa.Column("memory_bytes_per_gpu", sa.BigInteger(), nullable=True))
    for column in ("node_labels", "placement"):
        op.alter_column("jobs", column, server_default=None)


def downgrade() -> None:
    for column in (
        "memory_bytes_per_gpu",
        "cpus_per_gpu",
        "placement",
        "topology_preferred",
        "topology_required",
        "node_labels",
    ):
        op.drop_column("jobs", column)
