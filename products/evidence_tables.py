"""Rows beside the product register: what became of an entry, imports, initiatives, issued reports."""

from __future__ import annotations

from datetime import date, datetime
from uuid import UUID

from sqlalchemy import BigInteger, CheckConstraint, Date, ForeignKey, Identity, Index, Text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from store.base import Base, type_instant


class ProductFactRow(Base):
    """What an entry said of its product from an instant on, that it was withdrawn, or that a job was unlinked.

    Append-only.

    Verifications and returns are in the journal, jobs in `product_jobs`: nothing is written twice.
    """

    __tablename__ = "product_facts"
    __table_args__ = (
        CheckConstraint("kind IN ('described', 'withdrawn', 'unlinked')", name="kind"),
        CheckConstraint("(kind = 'unlinked') = (job_id IS NOT NULL)", name="unlinked"),
        CheckConstraint(
            "(kind = 'described') = (stage IS NOT NULL AND uses_ai IS NOT NULL)", name="described"
        ),
        Index("ix_product_facts_product", "product_id", "id"),
    )

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    product_id: Mapped[UUID] = mapped_column(ForeignKey("products.id"))
    at: Mapped[datetime] = mapped_column(type_instant)
    kind: Mapped[str] = mapped_column(Text)
    stage: Mapped[str | None] = mapped_column(Text)
    uses_ai: Mapped[bool | None]
    programme: Mapped[str | None] = mapped_column(Text)
    job_id: Mapped[int | None] = mapped_column(ForeignKey("jobs.id"))


class ImportedProductRow(Base):
    """A product from before the platform kept evidence: *imported, no job evidence*, with its decision."""

    __tablename__ = "imported_products"

    slug: Mapped[str] = mapped_column(Text, primary_key=True)
    name: Mapped[dict[str, str]] = mapped_column(JSONB)
    counted_on: Mapped[date] = mapped_column(Date)
    decision: Mapped[dict[str, object]] = mapped_column(JSONB)
    imported_at: Mapped[datetime] = mapped_column(type_instant)


class InitiativeRow(Base):
    """A national "icebreaker" project with its KPI and deadline."""

    __tablename__ = "initiatives"
    __table_args__ = (CheckConstraint("baseline <> target", name="kpi"),)

    slug: Mapped[str] = mapped_column(Text, primary_key=True)
    direction: Mapped[str] = mapped_column(Text)
    kpi: Mapped[dict[str, str]] = mapped_column(JSONB)
    unit: Mapped[str] = mapped_column(Text)
    baseline: Mapped[int] = mapped_column(BigInteger)
    target: Mapped[int] = mapped_column(BigInteger)
    deadline: Mapped[date] = mapped_column(Date)
    registered_at: Mapped[datetime] = mapped_column(type_instant)


class InitiativeMeasurementRow(Base):
    """A value of an initiative's KPI on a day, with where it was read."""

    __tablename__ = "initiative_measurements"

    initiative: Mapped[str] = mapped_column(ForeignKey("initiatives.slug"), primary_key=True)
    on: Mapped[date] = mapped_column(Date, primary_key=True)
    value: Mapped[int] = mapped_column(BigInteger)
    source: Mapped[str] = mapped_column(Text)
    entered_at: Mapped[datetime] = mapped_column(type_instant)


class IssuedReportRow(Base):
    """A report that was issued, by the SHA-256 of its data: what a file in somebody's hands is compared with."""

    __tablename__ = "issued_reports"

    digest: Mapped[str] = mapped_column(Text, primary_key=True)
    kind: Mapped[str] = mapped_column(Text)
    starts_on: Mapped[date] = mapped_column(Date)
    ends_on: Mapped[date] = mapped_column(Date)
    as_of: Mapped[datetime] = mapped_column(type_instant)
    issued_at: Mapped[datetime] = mapped_column(type_instant)
