"""Product facts, imported products, initiatives, issued reports."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

APPEND_ONLY = ("product_facts", "product_jobs")


def upgrade() -> None:
    op.create_table(
        "product_facts",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("product_id", sa.Uuid(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("stage", sa.Text(), nullable=True),
        sa.Column("uses_ai", sa.Boolean(), nullable=True),
        sa.Column("programme", sa.Text(), nullable=True),
        sa.CheckConstraint("kind IN ('described', 'withdrawn')", name=op.f("ck_product_facts_kind")),
        sa.CheckConstraint(
            "(kind = 'described') = (stage IS NOT NULL AND uses_ai IS NOT NULL)",
            name=op.f("ck_product_facts_described"),
        ),
        sa.ForeignKeyConstraint(
            ["product_id"], ["products.id"], name=op.f("fk_product_facts_product_id_products")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_product_facts")),
    )
    op.create_index("ix_product_facts_product", "product_facts", ["product_id", "id"], unique=False)
    # A link of the chain of evidence that could be deleted would rewrite figures that were published.
    for table in APPEND_ONLY:
        op.execute(
            f"CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {table} "
            "FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
        )
    op.create_table(
        "imported_products",
        sa.Column("slug", sa.Text(), nullable=False),
        sa.Column("name", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("counted_on", sa.Date(), nullable=False),
        sa.Column("decision", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("imported_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("slug", name=op.f("pk_imported_products")),
    )
    op.create_table(
        "initiatives",
        sa.Column("slug", sa.Text(), nullable=False),
        sa.Column("direction", sa.Text(), nullable=False),
        sa.Column("kpi", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("unit", sa.Text(), nullable=False),
        sa.Column("baseline", sa.BigInteger(), nullable=False),
        sa.Column("target", sa.BigInteger(), nullable=False),
        sa.Column("deadline", sa.Date(), nullable=False),
        sa.Column("registered_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("baseline <> target", name=op.f("ck_initiatives_kpi")),
        sa.PrimaryKeyConstraint("slug", name=op.f("pk_initiatives")),
    )
    op.create_table(
        "initiative_measurements",
        sa.Column("initiative", sa.Text(), nullable=False),
        sa.Column("on", sa.Date(), nullable=False),
        sa.Column("value", sa.BigInteger(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("entered_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["initiative"],
            ["initiatives.slug"],
            name=op.f("fk_initiative_measurements_initiative_initiatives"),
        ),
        sa.PrimaryKeyConstraint("initiative", "on", name=op.f("pk_initiative_measurements")),
    )
    op.create_table(
        "issued_reports",
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("starts_on", sa.Date(), nullable=False),
        sa.Column("ends_on", sa.Date(), nullable=False),
        sa.Column("as_of", sa.DateTime(timezone=True), nullable=False),
        sa.Column("issued_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_issued_reports")),
    )


def downgrade() -> None:
    op.drop_table("issued_reports")
    op.drop_table("initiative_measurements")
    op.drop_table("initiatives")
    op.drop_table("imported_products")
    for table in APPEND_ONLY:
        op.execute(f"DROP TRIGGER append_only ON {table}")
    op.drop_index("ix_product_facts_product", table_name="product_facts")
    op.drop_table("product_facts")
