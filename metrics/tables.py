"""Rows of the metrics room: what was observed of each attempt, beyond the retention of the metrics."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Identity, Index, Text, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from store.base import Base, type_instant


class AttemptTelemetryRow(Base):
    """The fold of an attempt's telemetry, and the moment up to which readings are in it.

    `observed_until` is also the guard: who read the row at another moment than it stands at now must not add to it.
    `idle` holds the present idle stretch of each of its GPUs, by UUID (`metrics.stretches`).
    """

    __tablename__ = "attempt_telemetry"
    __table_args__ = (CheckConstraint("jsonb_typeof(fold) = 'object'", name="fold_is_object"),)

    attempt_id: Mapped[str] = mapped_column(Text, ForeignKey("attempts.id"), primary_key=True)
    observed_until: Mapped[datetime] = mapped_column(type_instant)
    fold: Mapped[dict[str, object]] = mapped_column(JSONB)
    idle: Mapped[dict[str, object]] = mapped_column(JSONB, server_default=text("'{}'::jsonb"))


class IdlePolicyRow(Base):
    """An idle policy as an operator set it; the latest is in force. Append-only."""

    __tablename__ = "idle_policies"

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    document: Mapped[dict[str, object]] = mapped_column(JSONB)
    digest: Mapped[str] = mapped_column(Text)
    set_at: Mapped[datetime] = mapped_column(type_instant)
    set_by: Mapped[str] = mapped_column(Text)


class IdleNoticeRow(Base):
    """A step taken against an idle attempt, in earnest or in a dry run; use of its GPUs clears it.

    The partial index makes a second notice of one stretch impossible, whoever writes it.
    """

    __tablename__ = "idle_notices"
    __table_args__ = (
        CheckConstraint("step IN ('notice', 'second_notice', 'cancel')", name="step"),
        CheckConstraint("returned_s IS NULL OR step = 'cancel'", name="returned_by_cancel"),
        Index(
            "uq_idle_notices_open",
            "attempt_id",
            "step",
            "is_dry_run",
            unique=True,
            postgresql_where=text("cleared_at IS NULL"),
        ),
        Index("ix_idle_notices_job", "job_id", "id"),
    )

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    job_id: Mapped[int] = mapped_column(ForeignKey("jobs.id"))
    attempt_id: Mapped[str] = mapped_column(ForeignKey("attempts.id"))
    step: Mapped[str] = mapped_column(Text)
    is_dry_run: Mapped[bool]
    at: Mapped[datetime] = mapped_column(type_instant)
    policy_id: Mapped[int | None] = mapped_column(ForeignKey("idle_policies.id"))
    idle_s: Mapped[int] = mapped_column(BigInteger)
    idle_gpus: Mapped[int]
    gpus: Mapped[int]
    next_step: Mapped[str | None] = mapped_column(Text)
    next_at: Mapped[datetime | None] = mapped_column(type_instant)
    returned_s: Mapped[int | None] = mapped_column(BigInteger)
    cleared_at: Mapped[datetime | None] = mapped_column(type_instant)
