"""Fields and life of a product's entry, its model versions; rows of the chain of evidence that cannot go."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

LISTS = ("builds_on", "links", "authors", "data_sets")
UNCHANGED = ("product_artefacts", "artefacts", "policies", "imported_products", "initiative_measurements")
"""Written once: a row that could be changed or deleted would rewrite a chain that was published."""
KEPT = ("grants", "attempts", "products", "initiatives")
"""Changed in their life, but never deleted."""


def upgrade() -> None:
    for name in ("direction", "ai_kind", "programme"):
        op.add_column("products", sa.Column(name, sa.Text(), nullable=True))
    op.add_column("products", sa.Column("users", sa.Text(), server_default="", nullable=False))
    op.alter_column("products", "users", server_default=None)
    for name in LISTS:
        column = sa.Column(
            name, postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'[]'"), nullable=False
        )
        op.add_column("products", column)
        op.alter_column("products", name, server_default=None)
    op.add_column("products", sa.Column("changed_at", sa.DateTime(timezone=True), nullable=True))
    op.execute("UPDATE products SET changed_at = registered_at")
    op.alter_column("products", "changed_at", nullable=False)
    # What an entry said at its registration was read from the entry itself, which may change from now on.
    op.execute(
        "INSERT INTO product_facts (product_id, at, kind, stage, uses_ai) "
        "SELECT id, registered_at, 'described', stage, false FROM products"
    )
    op.add_column("product_facts", sa.Column("job_id", sa.BigInteger(), nullable=True))
    op.create_foreign_key(op.f("fk_product_facts_job_id_jobs"), "product_facts", "jobs", ["job_id"], ["id"])
    op.drop_constraint(op.f("ck_product_facts_kind"), "product_facts", type_="check")
    op.create_check_constraint(
        op.f("ck_product_facts_kind"), "product_facts", "kind IN ('described', 'withdrawn', 'unlinked')"
    )
    op.create_check_constraint(
        op.f("ck_product_facts_unlinked"), "product_facts", "(kind = 'unlinked') = (job_id IS NOT NULL)"
    )
    op.create_table(
        "product_artefacts",
        sa.Column("product_id", sa.Uuid(), nullable=False),
        sa.Column("artefact_id", sa.BigInteger(), nullable=False),
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("linked_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["artefact_id"], ["artefacts.id"], name=op.f("fk_product_artefacts_artefact_id_artefacts")
        ),
        sa.ForeignKeyConstraint(
            ["product_id"], ["products.id"], name=op.f("fk_product_artefacts_product_id_products")
        ),
        sa.PrimaryKeyConstraint("product_id", "artefact_id", name=op.f("pk_product_artefacts")),
    )
    for table in UNCHANGED:
        op.execute(
            f"CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {table} "
            "FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
        )
    for table in KEPT:
        op.execute(
            f"CREATE TRIGGER kept BEFORE DELETE OR TRUNCATE ON {table} "
            "FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
        )


def downgrade() -> None:
    for table in KEPT:
        op.execute(f"DROP TRIGGER kept ON {table}")
    for table in UNCHANGED:
        op.execute(f"DROP TRIGGER append_only ON {table}")
    op.drop_table("product_artefacts")
    op.execute("ALTER TABLE product_facts DISABLE TRIGGER append_only")
    op.execute("DELETE FROM product_facts WHERE kind = 'unlinked'")
    op.execute("ALTER TABLE product_facts ENABLE TRIGGER append_only")
    op.drop_constraint(op.f("ck_product_facts_unlinked"), "product_facts", type_="check")
    op.drop_constraint(op.f("ck_product_facts_kind"), "product_facts", type_="check")
    op.create_check_constraint(
        op.f("ck_product_facts_kind"), "product_facts", "kind IN ('described', 'withdrawn')"
    )
    op.drop_column("product_facts", "job_id")
    for name in ("direction", "ai_kind", "programme", "users", *LISTS, "changed_at"):
        op.drop_column("products", name)
