"""Rows of the scheduler room: nodes, GPUs, jobs, attempts, allocations, operators' acts, windows, use, files."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    ForeignKey,
    Identity,
    Index,
    LargeBinary,
    Text,
    Uuid,
    false,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.orm import Mapped, mapped_column

from scheduler.model import Placement
from store.base import Base, type_instant


class NodeRow(Base):
    """A node of the inventory, as its agent reported it."""

    __tablename__ = "nodes"

    name: Mapped[str] = mapped_column(Text, primary_key=True)
    url: Mapped[str] = mapped_column(Text)
    flavor: Mapped[str] = mapped_column(Text)
    state: Mapped[str] = mapped_column(Text)
    is_simulated: Mapped[bool]
    cpus: Mapped[int]
    memory_bytes: Mapped[int] = mapped_column(BigInteger)
    labels: Mapped[dict[str, str]] = mapped_column(JSONB)
    isolation: Mapped[list[str]] = mapped_column(JSONB)
    drained_at: Mapped[datetime | None] = mapped_column(type_instant)
    drain_reason: Mapped[str | None] = mapped_column(Text)
    registered_at: Mapped[datetime] = mapped_column(type_instant)
    last_seen_at: Mapped[datetime] = mapped_column(type_instant)


class GpuRow(Base):
    """A GPU, keyed by UUID; `index` is its place in the node and nothing else.

    One that its node reports no more is kept for the allocations it had, with `is_present` false.
    """

    __tablename__ = "gpus"
    __table_args__ = (
        Index("uq_gpus_node_index", "node", "index", unique=True, postgresql_where=text("is_present")),
    )

    uuid: Mapped[str] = mapped_column(Text, primary_key=True)
    node: Mapped[str] = mapped_column(ForeignKey("nodes.name"))
    index: Mapped[int]
    flavor: Mapped[str] = mapped_column(Text)
    is_present: Mapped[bool]


class BundleRow(Base):
    """Code a user uploaded, by digest; small on purpose, so that it lives and is backed up with the rest."""

    __tablename__ = "bundles"

    digest: Mapped[str] = mapped_column(Text, primary_key=True)
    data: Mapped[bytes] = mapped_column(LargeBinary)
    size_bytes: Mapped[int]
    created_at: Mapped[datetime] = mapped_column(type_instant)


class JobRow(Base):
    """A job: what was asked for and where it stands. What a person wrote is in JobTextRow."""

    __tablename__ = "jobs"
    __table_args__ = (
        CheckConstraint("gpus > 0", name="gpus_positive"),
        CheckConstraint("walltime_s > 0", name="walltime_positive"),
        Index("ix_jobs_state", "state", "id"),
        Index("ix_jobs_project", "project_id", "id"),
        Index("ix_jobs_pending", "project_id", postgresql_where=text("state = 'PENDING'")),
        Index("ix_jobs_reserved", "id", postgresql_where=text("reservation IS NOT NULL")),
        Index(
            "ix_jobs_told",
            "first_started_at",
            postgresql_where=text("told_at IS NOT NULL AND first_started_at IS NOT NULL"),
        ),
    )

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    project_id: Mapped[UUID] = mapped_column(ForeignKey("projects.id"))
    user_id: Mapped[UUID] = mapped_column(ForeignKey("users.id"))
    queue: Mapped[str] = mapped_column(Text)
    state: Mapped[str] = mapped_column(Text)
    priority: Mapped[int]
    gpus: Mapped[int]
    nodes: Mapped[int | None]
    flavors: Mapped[list[str]] = mapped_column(ARRAY(Text))
    walltime_s: Mapped[int] = mapped_column(BigInteger)
    memory_bytes_per_rank: Mapped[int | None] = mapped_column(BigInteger)
    node_labels: Mapped[dict[str, str]] = mapped_column(JSONB, default=dict)
    topology_required: Mapped[str | None] = mapped_column(Text)
    topology_preferred: Mapped[str | None] = mapped_column(Text)
    placement: Mapped[str] = mapped_column(Text, default=Placement.PACK.value)
    cpus_per_gpu: Mapped[int | None]
    memory_bytes_per_gpu: Mapped[int | None] = mapped_column(BigInteger)
    bundle_digest: Mapped[str | None] = mapped_column(ForeignKey("bundles.digest"))
    submitted_at: Mapped[datetime] = mapped_column(type_instant)
    is_held: Mapped[bool]
    is_interactive: Mapped[bool] = mapped_column(server_default=false())
    begin_at: Mapped[datetime | None] = mapped_column(type_instant)
    depends_on: Mapped[list[dict[str, object]]] = mapped_column(JSONB, default=list)
    array_id: Mapped[int | None] = mapped_column(BigInteger)
    array_index: Mapped[int | None]
    array_cap: Mapped[int | None]
    reservation: Mapped[dict[str, object] | None] = mapped_column(JSONB(none_as_null=True))
    told_at: Mapped[datetime | None] = mapped_column(type_instant)
    told_start_at: Mapped[datetime | None] = mapped_column(type_instant)
    preemptions: Mapped[int] = mapped_column(default=0)
    is_cancel_requested: Mapped[bool]
    attempts: Mapped[int]
    launch_refusals: Mapped[int]
    node_failures: Mapped[int]
    back_off_until: Mapped[datetime | None] = mapped_column(type_instant)
    reason: Mapped[str | None] = mapped_column(Text)
    reason_numbers: Mapped[dict[str, object] | None] = mapped_column(JSONB)
    first_started_at: Mapped[datetime | None] = mapped_column(type_instant)
    finished_at: Mapped[datetime | None] = mapped_column(type_instant)
    exit_code: Mapped[int | None]
    exit_signal: Mapped[int | None]
    exit_error: Mapped[str | None] = mapped_column(Text)
    gpu_seconds: Mapped[int] = mapped_column(BigInteger)


class JobTextRow(Base):
    """What a person wrote of a job: name, command, environment, outputs. Erasable; the journal has none of it."""

    __tablename__ = "job_texts"

    job_id: Mapped[int] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    name: Mapped[str] = mapped_column(Text)
    command: Mapped[list[str]] = mapped_column(JSONB)
    env: Mapped[dict[str, str]] = mapped_column(JSONB)
    outputs: Mapped[list[str]] = mapped_column(JSONB)


class AttemptRow(Base):
    """One execution of a job. `ranks` holds each rank's node, GPU UUIDs and, when known, its exit."""

    __tablename__ = "attempts"
    __table_args__ = (
        Index(
            "uq_attempts_live_job",
            "job_id",
            unique=True,
            postgresql_where=text("state IN ('ADMITTED', 'RUNNING', 'COMPLETING')"),
        ),
        Index("ix_attempts_job", "job_id"),
        Index("ix_attempts_admitted", "admitted_at"),
        Index(
            "ix_attempts_stopping",
            "id",
            postgresql_where=text("stop_why IS NOT NULL AND ended_at IS NULL"),
        ),
        Index(
            "ix_attempts_noticed",
            "notice_ends_at",
            postgresql_where=text("reclaimed_by IS NOT NULL AND ended_at IS NULL"),
        ),
        Index("ix_attempts_kept", "ended_at", "id", postgresql_where=text("removed_at IS NULL")),
    )

    id: Mapped[str] = mapped_column(Text, primary_key=True)
    job_id: Mapped[int] = mapped_column(ForeignKey("jobs.id"))
    state: Mapped[str] = mapped_column(Text)
    share_class: Mapped[str] = mapped_column(Text)
    epoch: Mapped[int] = mapped_column(BigInteger)
    grant_id: Mapped[UUID] = mapped_column(ForeignKey("grants.id"))
    claim_s: Mapped[int] = mapped_column(BigInteger)
    ranks: Mapped[list[dict[str, object]]] = mapped_column(JSONB)
    admitted_at: Mapped[datetime] = mapped_column(type_instant)
    admitted_seq: Mapped[int] = mapped_column(default=0)
    grace_s: Mapped[int] = mapped_column(BigInteger, default=0)
    reclaimed_by: Mapped[int | None] = mapped_column(BigInteger)
    notice_ends_at: Mapped[datetime | None] = mapped_column(type_instant)
    notice_sent_at: Mapped[datetime | None] = mapped_column(type_instant)
    refund_cap_s: Mapped[int] = mapped_column(BigInteger, default=0)
    refunded_s: Mapped[int] = mapped_column(BigInteger, default=0)
    dispatched_at: Mapped[datetime | None] = mapped_column(type_instant)
    committed_at: Mapped[datetime | None] = mapped_column(type_instant)
    started_at: Mapped[datetime | None] = mapped_column(type_instant)
    ended_at: Mapped[datetime | None] = mapped_column(type_instant)
    stop_why: Mapped[str | None] = mapped_column(Text)
    stop_at: Mapped[datetime | None] = mapped_column(type_instant)
    stop_sent_at: Mapped[datetime | None] = mapped_column(type_instant)
    verdict: Mapped[dict[str, object] | None] = mapped_column(JSONB)
    used_s: Mapped[int | None] = mapped_column(BigInteger)
    removed_at: Mapped[datetime | None] = mapped_column(type_instant)


class ActRow(Base):
    """What an operator set above the machine: a pause, a place at the front, a reclaim forbidden."""

    __tablename__ = "operator_acts"
    __table_args__ = (
        CheckConstraint("(job_id IS NULL) <> (queue IS NULL)", name="one_target"),
        CheckConstraint("expires_at > created_at", name="period"),
    )

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    kind: Mapped[str] = mapped_column(Text)
    job_id: Mapped[int | None] = mapped_column(ForeignKey("jobs.id"))
    queue: Mapped[str | None] = mapped_column(Text)
    reason: Mapped[str] = mapped_column(Text)
    user_id: Mapped[UUID] = mapped_column(ForeignKey("users.id"))
    created_at: Mapped[datetime] = mapped_column(type_instant)
    expires_at: Mapped[datetime] = mapped_column(type_instant)
    ended_at: Mapped[datetime | None] = mapped_column(type_instant)


class WindowRow(Base):
    """Nodes set apart for a time: maintenance, or an advance reservation for some projects."""

    __tablename__ = "windows"
    __table_args__ = (CheckConstraint("to_at > from_at", name="period"),)

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    kind: Mapped[str] = mapped_column(Text)
    nodes: Mapped[list[str]] = mapped_column(ARRAY(Text))
    projects: Mapped[list[UUID]] = mapped_column(ARRAY(Uuid))
    from_at: Mapped[datetime] = mapped_column(type_instant)
    to_at: Mapped[datetime] = mapped_column(type_instant)
    repeats: Mapped[dict[str, object] | None] = mapped_column(JSONB(none_as_null=True))
    reason: Mapped[str] = mapped_column(Text)
    user_id: Mapped[UUID] = mapped_column(ForeignKey("users.id"))
    created_at: Mapped[datetime] = mapped_column(type_instant)
    removed_at: Mapped[datetime | None] = mapped_column(type_instant)


class UsageRow(Base):
    """Decayed use of a queue in GPU-milliseconds as of the last sample; see `quota.fairshare`."""

    __tablename__ = "queue_usage"

    queue: Mapped[str] = mapped_column(Text, primary_key=True)
    used_gpu_ms: Mapped[int] = mapped_column(BigInteger)
    sampled_at: Mapped[datetime] = mapped_column(type_instant)


class AllocationRow(Base):
    """A GPU held by an attempt until absence is proven; the partial index makes a second holder impossible."""

    __tablename__ = "allocations"
    __table_args__ = (
        Index(
            "uq_allocations_held_gpu", "gpu_uuid", unique=True, postgresql_where=text("released_at IS NULL")
        ),
        Index("ix_allocations_gpu_period", "gpu_uuid", "allocated_at"),
    )

    attempt_id: Mapped[str] = mapped_column(ForeignKey("attempts.id"), primary_key=True)
    gpu_uuid: Mapped[str] = mapped_column(ForeignKey("gpus.uuid"), primary_key=True)
    node: Mapped[str] = mapped_column(Text)
    rank: Mapped[int]
    allocated_at: Mapped[datetime] = mapped_column(type_instant)
    released_at: Mapped[datetime | None] = mapped_column(type_instant)


class ArtefactRow(Base):
    """A file a job kept, with the SHA-256 that the agent computed: the evidence of a product."""

    __tablename__ = "artefacts"
    __table_args__ = (Index("uq_artefacts_file", "attempt_id", "rank", "path", unique=True),)

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    job_id: Mapped[int] = mapped_column(ForeignKey("jobs.id"), index=True)
    attempt_id: Mapped[str] = mapped_column(ForeignKey("attempts.id"))
    node: Mapped[str] = mapped_column(Text)
    rank: Mapped[int]
    path: Mapped[str] = mapped_column(Text)
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    digest: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(type_instant)
