"""First tables of every room."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from store.tables import Xid8

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

APPEND_ONLY = ("journal", "journal_seals", "journal_segments", "ledger_entries")


def upgrade() -> None:
    op.create_table(
        "bundles",
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.Column("size_bytes", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_bundles")),
    )
    op.create_table(
        "idempotency_keys",
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("request_digest", sa.LargeBinary(), nullable=False),
        sa.Column("status", sa.Integer(), nullable=True),
        sa.Column("response", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("user_id", "key", name=op.f("pk_idempotency_keys")),
    )
    op.create_index(op.f("ix_idempotency_keys_created_at"), "idempotency_keys", ["created_at"], unique=False)
    op.create_table(
        "journal",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("xid", Xid8(), server_default=sa.text("pg_current_xact_id()"), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("data", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_journal")),
    )
    op.create_index("ix_journal_subject", "journal", ["subject", "id"], unique=False)
    op.create_index("ix_journal_kind", "journal", ["kind", "id"], unique=False)
    op.create_index("ix_journal_xid", "journal", ["xid"], unique=False)
    op.create_table(
        "journal_seals",
        sa.Column("seq", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("journal_id", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_journal_seals")),
        sa.UniqueConstraint("journal_id", name=op.f("uq_journal_seals_journal_id")),
    )
    op.create_table(
        "journal_segments",
        sa.Column("number", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("first_seq", sa.BigInteger(), nullable=False),
        sa.Column("last_seq", sa.BigInteger(), nullable=False),
        sa.Column("previous_digest", sa.LargeBinary(), nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("horizon", Xid8(), nullable=False),
        sa.Column("sealed_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("last_seq >= first_seq", name=op.f("ck_journal_segments_order")),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_journal_segments")),
        sa.UniqueConstraint("first_seq", name=op.f("uq_journal_segments_first_seq")),
        sa.UniqueConstraint("last_seq", name=op.f("uq_journal_segments_last_seq")),
    )
    op.create_table(
        "leases",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("holder", sa.Text(), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_leases")),
    )
    op.create_table(
        "nodes",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("flavor", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("is_simulated", sa.Boolean(), nullable=False),
        sa.Column("cpus", sa.Integer(), nullable=False),
        sa.Column("memory_bytes", sa.BigInteger(), nullable=False),
        sa.Column("labels", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("isolation", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("registered_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("last_seen_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_nodes")),
    )
    op.create_table(
        "organisations",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("slug", sa.Text(), nullable=False),
        sa.Column("name", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("category", sa.Text(), nullable=False),
        sa.Column("sector", sa.Text(), nullable=False),
        sa.Column("region", sa.Text(), nullable=False),
        sa.Column("bin", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("slug ~ '^[a-z0-9][a-z0-9-]{0,62}$'", name=op.f("ck_organisations_slug")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_organisations")),
        sa.UniqueConstraint("bin", name=op.f("uq_organisations_bin")),
        sa.UniqueConstraint("slug", name=op.f("uq_organisations_slug")),
    )
    op.create_table(
        "policies",
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("effective_from", sa.Date(), nullable=False),
        sa.Column("document", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("enacted_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("version", name=op.f("pk_policies")),
        sa.UniqueConstraint("effective_from", name=op.f("uq_policies_effective_from")),
    )
    op.create_table(
        "gpus",
        sa.Column("uuid", sa.Text(), nullable=False),
        sa.Column("node", sa.Text(), nullable=False),
        sa.Column("index", sa.Integer(), nullable=False),
        sa.Column("flavor", sa.Text(), nullable=False),
        sa.Column("is_present", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(["node"], ["nodes.name"], name=op.f("fk_gpus_node_nodes")),
        sa.PrimaryKeyConstraint("uuid", name=op.f("pk_gpus")),
    )
    op.create_index(
        "uq_gpus_node_index",
        "gpus",
        ["node", "index"],
        unique=True,
        postgresql_where=sa.text("is_present"),
    )
    op.create_table(
        "projects",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("organisation_id", sa.Uuid(), nullable=False),
        sa.Column("slug", sa.Text(), nullable=False),
        sa.Column("queue", sa.Text(), nullable=False),
        sa.Column("programme", sa.Text(), nullable=True),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("slug ~ '^[a-z0-9][a-z0-9-]{0,62}$'", name=op.f("ck_projects_slug")),
        sa.ForeignKeyConstraint(
            ["organisation_id"], ["organisations.id"], name=op.f("fk_projects_organisation_id_organisations")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_projects")),
        sa.UniqueConstraint("slug", name=op.f("uq_projects_slug")),
    )
    op.create_index(op.f("ix_projects_organisation_id"), "projects", ["organisation_id"], unique=False)
    op.create_table(
        "users",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("organisation_id", sa.Uuid(), nullable=True),
        sa.Column("is_active", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["organisation_id"], ["organisations.id"], name=op.f("fk_users_organisation_id_organisations")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_users")),
        sa.UniqueConstraint("name", name=op.f("uq_users_name")),
    )
    op.create_table(
        "grants",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("project_id", sa.Uuid(), nullable=False),
        sa.Column("flavor", sa.Text(), nullable=False),
        sa.Column("granted_s", sa.BigInteger(), nullable=False),
        sa.Column("starts_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ends_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("decision", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("ends_at > starts_at", name=op.f("ck_grants_period")),
        sa.CheckConstraint("granted_s > 0", name=op.f("ck_grants_granted_positive")),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name=op.f("fk_grants_project_id_projects")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_grants")),
    )
    op.create_index("ix_grants_project_flavor", "grants", ["project_id", "flavor"], unique=False)
    op.create_table(
        "jobs",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("project_id", sa.Uuid(), nullable=False),
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("queue", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("gpus", sa.Integer(), nullable=False),
        sa.Column("nodes", sa.Integer(), nullable=True),
        sa.Column("flavors", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column("walltime_s", sa.BigInteger(), nullable=False),
        sa.Column("memory_bytes_per_rank", sa.BigInteger(), nullable=True),
        sa.Column("bundle_digest", sa.Text(), nullable=True),
        sa.Column("submitted_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("is_held", sa.Boolean(), nullable=False),
        sa.Column("is_cancel_requested", sa.Boolean(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("launch_refusals", sa.Integer(), nullable=False),
        sa.Column("node_failures", sa.Integer(), nullable=False),
        sa.Column("back_off_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("reason_numbers", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("first_started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("exit_code", sa.Integer(), nullable=True),
        sa.Column("exit_signal", sa.Integer(), nullable=True),
        sa.Column("exit_error", sa.Text(), nullable=True),
        sa.Column("gpu_seconds", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("gpus > 0", name=op.f("ck_jobs_gpus_positive")),
        sa.CheckConstraint("walltime_s > 0", name=op.f("ck_jobs_walltime_positive")),
        sa.ForeignKeyConstraint(
            ["bundle_digest"], ["bundles.digest"], name=op.f("fk_jobs_bundle_digest_bundles")
        ),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name=op.f("fk_jobs_project_id_projects")),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_jobs_user_id_users")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_jobs")),
    )
    op.create_index("ix_jobs_project", "jobs", ["project_id", "id"], unique=False)
    op.create_index("ix_jobs_state", "jobs", ["state", "id"], unique=False)
    op.create_table(
        "products",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("slug", sa.Text(), nullable=False),
        sa.Column("organisation_id", sa.Uuid(), nullable=False),
        sa.Column("project_id", sa.Uuid(), nullable=False),
        sa.Column("name", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("description", sa.Text(), nullable=False),
        sa.Column("sector", sa.Text(), nullable=False),
        sa.Column("stage", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("started_on", sa.Date(), nullable=False),
        sa.Column("author_id", sa.Uuid(), nullable=False),
        sa.Column("registered_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("verified_by", sa.Uuid(), nullable=True),
        sa.Column("verified_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("return_note", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["author_id"], ["users.id"], name=op.f("fk_products_author_id_users")),
        sa.ForeignKeyConstraint(
            ["organisation_id"], ["organisations.id"], name=op.f("fk_products_organisation_id_organisations")
        ),
        sa.ForeignKeyConstraint(
            ["project_id"], ["projects.id"], name=op.f("fk_products_project_id_projects")
        ),
        sa.ForeignKeyConstraint(["verified_by"], ["users.id"], name=op.f("fk_products_verified_by_users")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_products")),
        sa.UniqueConstraint("slug", name=op.f("uq_products_slug")),
    )
    op.create_index(op.f("ix_products_organisation_id"), "products", ["organisation_id"], unique=False)
    op.create_index(op.f("ix_products_project_id"), "products", ["project_id"], unique=False)
    op.create_table(
        "roles",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("project_id", sa.Uuid(), nullable=True),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name=op.f("fk_roles_project_id_projects")),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_roles_user_id_users")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_roles")),
    )
    op.create_index(op.f("ix_roles_project_id"), "roles", ["project_id"], unique=False)
    op.create_index(op.f("ix_roles_user_id"), "roles", ["user_id"], unique=False)
    op.create_index(
        "uq_roles_user_project_role",
        "roles",
        ["user_id", "project_id", "role"],
        unique=True,
        postgresql_nulls_not_distinct=True,
    )
    op.create_table(
        "tokens",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("prefix", sa.Text(), nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("scopes", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_tokens_user_id_users")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_tokens")),
        sa.UniqueConstraint("digest", name=op.f("uq_tokens_digest")),
    )
    op.create_index(op.f("ix_tokens_user_id"), "tokens", ["user_id"], unique=False)
    op.create_table(
        "attempts",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("job_id", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("share_class", sa.Text(), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("grant_id", sa.Uuid(), nullable=False),
        sa.Column("claim_s", sa.BigInteger(), nullable=False),
        sa.Column("ranks", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("admitted_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("dispatched_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("committed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("stop_why", sa.Text(), nullable=True),
        sa.Column("stop_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("stop_sent_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("verdict", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("used_s", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(["grant_id"], ["grants.id"], name=op.f("fk_attempts_grant_id_grants")),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_attempts_job_id_jobs")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_attempts")),
    )
    op.create_index("ix_attempts_job", "attempts", ["job_id"], unique=False)
    op.create_index(
        "uq_attempts_live_job",
        "attempts",
        ["job_id"],
        unique=True,
        postgresql_where=sa.text("state IN ('ADMITTED', 'RUNNING', 'COMPLETING')"),
    )
    op.create_table(
        "job_texts",
        sa.Column("job_id", sa.BigInteger(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("command", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("env", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("outputs", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_job_texts_job_id_jobs")),
        sa.PrimaryKeyConstraint("job_id", name=op.f("pk_job_texts")),
    )
    op.create_table(
        "ledger_balances",
        sa.Column("grant_id", sa.Uuid(), nullable=False),
        sa.Column("granted_s", sa.BigInteger(), nullable=False),
        sa.Column("pending_s", sa.BigInteger(), nullable=False),
        sa.Column("used_s", sa.BigInteger(), nullable=False),
        sa.Column("expired_s", sa.BigInteger(), nullable=False),
        sa.Column("returned_s", sa.BigInteger(), nullable=False),
        sa.Column("clawed_back_s", sa.BigInteger(), nullable=False),
        sa.Column("adjusted_s", sa.BigInteger(), nullable=False),
        sa.Column("transferred_in_s", sa.BigInteger(), nullable=False),
        sa.Column("transferred_out_s", sa.BigInteger(), nullable=False),
        sa.Column("remaining_s", sa.BigInteger(), nullable=False),
        sa.CheckConstraint(
            "granted_s + transferred_in_s + adjusted_s = used_s + pending_s + expired_s + returned_s + clawed_back_s + transferred_out_s + remaining_s",
            name=op.f("ck_ledger_balances_balanced"),
        ),
        sa.CheckConstraint(
            "least(granted_s, pending_s, used_s, expired_s, returned_s, clawed_back_s, transferred_in_s, transferred_out_s, remaining_s) >= 0",
            name=op.f("ck_ledger_balances_not_negative"),
        ),
        sa.ForeignKeyConstraint(["grant_id"], ["grants.id"], name=op.f("fk_ledger_balances_grant_id_grants")),
        sa.PrimaryKeyConstraint("grant_id", name=op.f("pk_ledger_balances")),
    )
    op.create_table(
        "ledger_entries",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("grant_id", sa.Uuid(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("debit", sa.Text(), nullable=False),
        sa.Column("credit", sa.Text(), nullable=False),
        sa.Column("amount_s", sa.BigInteger(), nullable=False),
        sa.Column("attempt_id", sa.Text(), nullable=True),
        sa.CheckConstraint("amount_s > 0", name=op.f("ck_ledger_entries_amount_positive")),
        sa.CheckConstraint("debit <> credit", name=op.f("ck_ledger_entries_two_accounts")),
        sa.ForeignKeyConstraint(["grant_id"], ["grants.id"], name=op.f("fk_ledger_entries_grant_id_grants")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_ledger_entries")),
    )
    op.create_index(op.f("ix_ledger_entries_grant_id"), "ledger_entries", ["grant_id"], unique=False)
    op.create_index(
        "uq_ledger_entries_attempt_kind",
        "ledger_entries",
        ["attempt_id", "kind"],
        unique=True,
        postgresql_where=sa.text("attempt_id IS NOT NULL"),
    )
    op.create_table(
        "product_jobs",
        sa.Column("product_id", sa.Uuid(), nullable=False),
        sa.Column("job_id", sa.BigInteger(), nullable=False),
        sa.Column("linked_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_product_jobs_job_id_jobs")),
        sa.ForeignKeyConstraint(
            ["product_id"], ["products.id"], name=op.f("fk_product_jobs_product_id_products")
        ),
        sa.PrimaryKeyConstraint("product_id", "job_id", name=op.f("pk_product_jobs")),
    )
    op.create_table(
        "allocations",
        sa.Column("attempt_id", sa.Text(), nullable=False),
        sa.Column("gpu_uuid", sa.Text(), nullable=False),
        sa.Column("node", sa.Text(), nullable=False),
        sa.Column("rank", sa.Integer(), nullable=False),
        sa.Column("allocated_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("released_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["attempt_id"], ["attempts.id"], name=op.f("fk_allocations_attempt_id_attempts")
        ),
        sa.ForeignKeyConstraint(["gpu_uuid"], ["gpus.uuid"], name=op.f("fk_allocations_gpu_uuid_gpus")),
        sa.PrimaryKeyConstraint("attempt_id", "gpu_uuid", name=op.f("pk_allocations")),
    )
    op.create_index("ix_allocations_gpu_period", "allocations", ["gpu_uuid", "allocated_at"], unique=False)
    op.create_index(
        "uq_allocations_held_gpu",
        "allocations",
        ["gpu_uuid"],
        unique=True,
        postgresql_where=sa.text("released_at IS NULL"),
    )
    op.create_table(
        "artefacts",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("job_id", sa.BigInteger(), nullable=False),
        sa.Column("attempt_id", sa.Text(), nullable=False),
        sa.Column("node", sa.Text(), nullable=False),
        sa.Column("rank", sa.Integer(), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["attempt_id"], ["attempts.id"], name=op.f("fk_artefacts_attempt_id_attempts")
        ),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_artefacts_job_id_jobs")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_artefacts")),
    )
    op.create_index(op.f("ix_artefacts_job_id"), "artefacts", ["job_id"], unique=False)
    op.create_index("uq_artefacts_file", "artefacts", ["attempt_id", "rank", "path"], unique=True)

    op.execute(
        """
        CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            RAISE EXCEPTION 'table % is append-only: % is refused', TG_TABLE_NAME, TG_OP;
        END $$
        """
    )
    for table in APPEND_ONLY:
        op.execute(
            f"CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {table} "
            "FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
        )


def downgrade() -> None:
    op.drop_index("uq_artefacts_file", table_name="artefacts")
    op.drop_index(op.f("ix_artefacts_job_id"), table_name="artefacts")
    op.drop_table("artefacts")
    op.drop_index(
        "uq_allocations_held_gpu", table_name="allocations", postgresql_where=sa.text("released_at IS NULL")
    )
    op.drop_index("ix_allocations_gpu_period", table_name="allocations")
    op.drop_table("allocations")
    op.drop_table("product_jobs")
    op.drop_index(
        "uq_ledger_entries_attempt_kind",
        table_name="ledger_entries",
        postgresql_where=sa.text("attempt_id IS NOT NULL"),
    )
    op.drop_index(op.f("ix_ledger_entries_grant_id"), table_name="ledger_entries")
    op.drop_table("ledger_entries")
    op.drop_table("ledger_balances")
    op.drop_table("job_texts")
    op.drop_index(
        "uq_attempts_live_job",
        table_name="attempts",
        postgresql_where=sa.text("state IN ('ADMITTED', 'RUNNING', 'COMPLETING')"),
    )
    op.drop_index("ix_attempts_job", table_name="attempts")
    op.drop_table("attempts")
    op.drop_index(op.f("ix_tokens_user_id"), table_name="tokens")
    op.drop_table("tokens")
    op.drop_index("uq_roles_user_project_role", table_name="roles", postgresql_nulls_not_distinct=True)
    op.drop_index(op.f("ix_roles_user_id"), table_name="roles")
    op.drop_index(op.f("ix_roles_project_id"), table_name="roles")
    op.drop_table("roles")
    op.drop_index(op.f("ix_products_project_id"), table_name="products")
    op.drop_index(op.f("ix_products_organisation_id"), table_name="products")
    op.drop_table("products")
    op.drop_index("ix_jobs_state", table_name="jobs")
    op.drop_index("ix_jobs_project", table_name="jobs")
    op.drop_table("jobs")
    op.drop_index("ix_grants_project_flavor", table_name="grants")
    op.drop_table("grants")
    op.drop_table("users")
    op.drop_index(op.f("ix_projects_organisation_id"), table_name="projects")
    op.drop_table("projects")
    op.drop_index("uq_gpus_node_index", table_name="gpus", postgresql_where=sa.text("is_present"))
    op.drop_table("gpus")
    op.drop_table("policies")
    op.drop_table("organisations")
    op.drop_table("nodes")
    op.drop_table("leases")
    op.drop_table("journal_segments")
    op.drop_table("journal_seals")
    op.drop_index("ix_journal_xid", table_name="journal")
    op.drop_index("ix_journal_kind", table_name="journal")
    op.drop_index("ix_journal_subject", table_name="journal")
    op.drop_table("journal")
    op.drop_index(op.f("ix_idempotency_keys_created_at"), table_name="idempotency_keys")
    op.drop_table("idempotency_keys")
    op.drop_table("bundles")
    op.execute("DROP FUNCTION refuse_change()")
