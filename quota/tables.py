"""Rows of the quota room: policies, grants, the append-only ledger and its balances."""

from __future__ import annotations

from datetime import date, datetime
from uuid import UUID

from sqlalchemy import BigInteger, CheckConstraint, Date, ForeignKey, Identity, Index, Text, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from store.base import Base, type_instant


class PolicyRow(Base):
    """A policy version as it was written, with its digest; the newest with effective_from reached is in force."""

    __tablename__ = "policies"

    version: Mapped[str] = mapped_column(Text, primary_key=True)
    effective_from: Mapped[date] = mapped_column(Date, unique=True)
    document: Mapped[dict[str, object]] = mapped_column(JSONB)
    digest: Mapped[str] = mapped_column(Text)
    enacted_at: Mapped[datetime] = mapped_column(type_instant)


class GrantRow(Base):
    """Device-seconds of a flavor awarded to a project for a period, by a decision."""

    __tablename__ = "grants"
    __table_args__ = (
        CheckConstraint("granted_s > 0", name="granted_positive"),
        CheckConstraint("ends_at > starts_at", name="period"),
        Index("ix_grants_project_flavor", "project_id", "flavor"),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    project_id: Mapped[UUID] = mapped_column(ForeignKey("projects.id"))
    flavor: Mapped[str] = mapped_column(Text)
    granted_s: Mapped[int] = mapped_column(BigInteger)
    starts_at: Mapped[datetime] = mapped_column(type_instant)
    ends_at: Mapped[datetime] = mapped_column(type_instant)
    decision: Mapped[dict[str, object]] = mapped_column(JSONB)
    created_at: Mapped[datetime] = mapped_column(type_instant)


class LedgerEntryRow(Base):
    """One double entry in raw device-seconds; append-only (a trigger refuses UPDATE and DELETE)."""

    __tablename__ = "ledger_entries"
    __table_args__ = (
        CheckConstraint("amount_s > 0", name="amount_positive"),
        CheckConstraint("debit <> credit", name="two_accounts"),
        Index(
            "uq_ledger_entries_attempt_kind",
            "attempt_id",
            "kind",
            unique=True,
            postgresql_where=text("attempt_id IS NOT NULL"),
        ),
    )

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    at: Mapped[datetime] = mapped_column(type_instant)
    grant_id: Mapped[UUID] = mapped_column(ForeignKey("grants.id"), index=True)
    kind: Mapped[str] = mapped_column(Text)
    debit: Mapped[str] = mapped_column(Text)
    credit: Mapped[str] = mapped_column(Text)
    amount_s: Mapped[int] = mapped_column(BigInteger)
    attempt_id: Mapped[str | None] = mapped_column(Text)


class BalanceRow(Base):
    """Projection of a grant's entries, changed in the entries' transaction under row lock."""

    __tablename__ = "ledger_balances"
    __table_args__ = (
        CheckConstraint(
            "least(granted_s, pending_s, used_s, expired_s, returned_s, clawed_back_s, "
            "transferred_in_s, transferred_out_s, remaining_s) >= 0",
            name="not_negative",
        ),
        CheckConstraint(
            "granted_s + transferred_in_s + adjusted_s = used_s + pending_s + expired_s + returned_s "
            "+ clawed_back_s + transferred_out_s + remaining_s",
            name="balanced",
        ),
    )

    grant_id: Mapped[UUID] = mapped_column(ForeignKey("grants.id"), primary_key=True)
    granted_s: Mapped[int] = mapped_column(BigInteger)
    pending_s: Mapped[int] = mapped_column(BigInteger)
    used_s: Mapped[int] = mapped_column(BigInteger)
    expired_s: Mapped[int] = mapped_column(BigInteger)
    returned_s: Mapped[int] = mapped_column(BigInteger)
    clawed_back_s: Mapped[int] = mapped_column(BigInteger)
    adjusted_s: Mapped[int] = mapped_column(BigInteger)
    transferred_in_s: Mapped[int] = mapped_column(BigInteger)
    transferred_out_s: Mapped[int] = mapped_column(BigInteger)
    remaining_s: Mapped[int] = mapped_column(BigInteger)
