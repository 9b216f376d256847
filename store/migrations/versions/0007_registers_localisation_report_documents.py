"""Dossiers of the registers with their books, documents, entries and checks; the data of issued reports."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "report_documents",
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("document", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.ForeignKeyConstraint(
            ["digest"], ["issued_reports.digest"], name=op.f("fk_report_documents_digest_issued_reports")
        ),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_report_documents")),
    )
    op.create_table(
        "dossiers",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("slug", sa.Text(), nullable=False),
        sa.Column("project_id", sa.Uuid(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("name", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("opened_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("kind IN ('software', 'electronics')", name=op.f("ck_dossiers_kind")),
        sa.ForeignKeyConstraint(
            ["project_id"], ["projects.id"], name=op.f("fk_dossiers_project_id_projects")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_dossiers")),
        sa.UniqueConstraint("slug", name=op.f("uq_dossiers_slug")),
    )
    op.create_index(op.f("ix_dossiers_project_id"), "dossiers", ["project_id"], unique=False)
    op.create_table(
        "dossier_contracts",
        sa.Column("dossier_id", sa.Uuid(), nullable=False),
        sa.Column("number", sa.Text(), nullable=False),
        sa.Column("party", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["dossier_id"], ["dossiers.id"], name=op.f("fk_dossier_contracts_dossier_id_dossiers")
        ),
        sa.PrimaryKeyConstraint("dossier_id", "number", name=op.f("pk_dossier_contracts")),
    )
    op.create_table(
        "dossier_documents",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("dossier_id", sa.Uuid(), nullable=False),
        sa.Column("code", sa.Text(), nullable=False),
        sa.Column("number", sa.Text(), nullable=False),
        sa.Column("issued_on", sa.Date(), nullable=False),
        sa.Column("expires_on", sa.Date(), nullable=True),
        sa.Column("level", sa.Integer(), nullable=True),
        sa.Column("share_percent", sa.Numeric(precision=5, scale=2), nullable=True),
        sa.Column("digest", sa.Text(), nullable=True),
        sa.Column("entered_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("withdrawn_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "expires_on IS NULL OR expires_on >= issued_on", name=op.f("ck_dossier_documents_period")
        ),
        sa.ForeignKeyConstraint(
            ["dossier_id"], ["dossiers.id"], name=op.f("fk_dossier_documents_dossier_id_dossiers")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_dossier_documents")),
    )
    op.create_index("ix_dossier_documents_expires_on", "dossier_documents", ["expires_on"], unique=False)
    op.create_index(
        "uq_dossier_documents_number",
        "dossier_documents",
        ["dossier_id", "code", "number"],
        unique=True,
        postgresql_where=sa.text("withdrawn_at IS NULL"),
    )
    op.create_table(
        "dossier_parties",
        sa.Column("dossier_id", sa.Uuid(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("is_foreign", sa.Boolean(), nullable=False),
        sa.Column("controlled_by", sa.Text(), nullable=True),
        sa.Column("acts_for", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(
            ["dossier_id"], ["dossiers.id"], name=op.f("fk_dossier_parties_dossier_id_dossiers")
        ),
        sa.PrimaryKeyConstraint("dossier_id", "key", name=op.f("pk_dossier_parties")),
    )
    op.create_table(
        "dossier_payments",
        sa.Column("dossier_id", sa.Uuid(), nullable=False),
        sa.Column("contract", sa.Text(), nullable=False),
        sa.Column("number", sa.Text(), nullable=False),
        sa.Column("paid_on", sa.Date(), nullable=False),
        sa.Column("amount", sa.Numeric(precision=18, scale=2), nullable=False),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("purpose", sa.Text(), nullable=False),
        sa.CheckConstraint("amount > 0", name=op.f("ck_dossier_payments_amount")),
        sa.ForeignKeyConstraint(
            ["dossier_id"], ["dossiers.id"], name=op.f("fk_dossier_payments_dossier_id_dossiers")
        ),
        sa.PrimaryKeyConstraint("dossier_id", "contract", "number", name=op.f("pk_dossier_payments")),
    )
    op.create_table(
        "dossier_rates",
        sa.Column("dossier_id", sa.Uuid(), nullable=False),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("on", sa.Date(), nullable=False),
        sa.Column("tenge", sa.Numeric(precision=18, scale=6), nullable=False),
        sa.CheckConstraint("tenge > 0", name=op.f("ck_dossier_rates_tenge")),
        sa.ForeignKeyConstraint(
            ["dossier_id"], ["dossiers.id"], name=op.f("fk_dossier_rates_dossier_id_dossiers")
        ),
        sa.PrimaryKeyConstraint("dossier_id", "currency", "on", name=op.f("pk_dossier_rates")),
    )
    op.create_table(
        "localisation_calculations",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("dossier_id", sa.Uuid(), nullable=False),
        sa.Column("starts_on", sa.Date(), nullable=False),
        sa.Column("ends_on", sa.Date(), nullable=False),
        sa.Column("foreign_tenge", sa.Text(), nullable=False),
        sa.Column("total_tenge", sa.Text(), nullable=False),
        sa.Column("number", sa.Text(), nullable=False),
        sa.Column("responsible", sa.Text(), nullable=False),
        sa.Column("contact", sa.Text(), nullable=False),
        sa.Column("books_digest", sa.Text(), nullable=False),
        sa.Column("calculated_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["dossier_id"], ["dossiers.id"], name=op.f("fk_localisation_calculations_dossier_id_dossiers")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_localisation_calculations")),
    )
    op.create_index(
        "ix_localisation_calculations_dossier",
        "localisation_calculations",
        ["dossier_id", "id"],
        unique=False,
    )
    op.create_table(
        "register_checks",
        sa.Column("dossier_id", sa.Uuid(), nullable=False),
        sa.Column("checked_on", sa.Date(), nullable=False),
        sa.Column("is_kept", sa.Boolean(), nullable=False),
        sa.Column("checked_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["dossier_id"], ["dossiers.id"], name=op.f("fk_register_checks_dossier_id_dossiers")
        ),
        sa.PrimaryKeyConstraint("dossier_id", "checked_on", name=op.f("pk_register_checks")),
    )
    op.create_table(
        "register_entries",
        sa.Column("dossier_id", sa.Uuid(), nullable=False),
        sa.Column("register", sa.Text(), nullable=False),
        sa.Column("entered_on", sa.Date(), nullable=False),
        sa.Column("left_on", sa.Date(), nullable=True),
        sa.CheckConstraint("register IN ('trusted', 'producers')", name=op.f("ck_register_entries_register")),
        sa.CheckConstraint(
            "left_on IS NULL OR left_on > entered_on", name=op.f("ck_register_entries_period")
        ),
        sa.ForeignKeyConstraint(
            ["dossier_id"], ["dossiers.id"], name=op.f("fk_register_entries_dossier_id_dossiers")
        ),
        sa.PrimaryKeyConstraint("dossier_id", "register", "entered_on", name=op.f("pk_register_entries")),
    )


def downgrade() -> None:
    op.drop_table("register_entries")
    op.drop_table("register_checks")
    op.drop_index("ix_localisation_calculations_dossier", table_name="localisation_calculations")
    op.drop_table("localisation_calculations")
    op.drop_table("dossier_rates")
    op.drop_table("dossier_payments")
    op.drop_table("dossier_parties")
    op.drop_index("uq_dossier_documents_number", table_name="dossier_documents")
    op.drop_index("ix_dossier_documents_expires_on", table_name="dossier_documents")
    op.drop_table("dossier_documents")
    op.drop_table("dossier_contracts")
    op.drop_index(op.f("ix_dossiers_project_id"), table_name="dossiers")
    op.drop_table("dossiers")
    op.drop_table("report_documents")
