"""Rows of the registers: dossiers of software products, their books of payments, documents, entries and checks.

A dossier belongs to a project, as a product does. What an applicant wrote (names of parties, the responsible person)
lives here, where it can be erased; the journal holds ids, digests and figures.
"""

from __future__ import annotations

from datetime import date, datetime
from decimal import Decimal
from uuid import UUID

from sqlalchemy import BigInteger, CheckConstraint, Date, ForeignKey, Identity, Index, Numeric, Text, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from store.base import Base, type_instant

AMOUNT = Numeric(18, 2)
"""Money: units of its currency with hundredths."""
RATE = Numeric(18, 6)
"""Tenge for one unit of a currency."""


class DossierRow(Base):
    """What a project shows of one product to the registers: software, or an electronic product."""

    __tablename__ = "dossiers"
    __table_args__ = (CheckConstraint("kind IN ('software', 'electronics')", name="kind"),)

    id: Mapped[UUID] = mapped_column(primary_key=True)
    slug: Mapped[str] = mapped_column(Text, unique=True)
    project_id: Mapped[UUID] = mapped_column(ForeignKey("projects.id"), index=True)
    kind: Mapped[str] = mapped_column(Text)
    name: Mapped[dict[str, str]] = mapped_column(JSONB)
    opened_at: Mapped[datetime] = mapped_column(type_instant)


class PartyRow(Base):
    """Who is paid under a contract of the dossier."""

    __tablename__ = "dossier_parties"

    dossier_id: Mapped[UUID] = mapped_column(ForeignKey("dossiers.id"), primary_key=True)
    key: Mapped[str] = mapped_column(Text, primary_key=True)
    is_foreign: Mapped[bool]
    controlled_by: Mapped[str | None] = mapped_column(Text)
    acts_for: Mapped[str | None] = mapped_column(Text)


class ContractRow(Base):
    """A contract for the product with one party."""

    __tablename__ = "dossier_contracts"

    dossier_id: Mapped[UUID] = mapped_column(ForeignKey("dossiers.id"), primary_key=True)
    number: Mapped[str] = mapped_column(Text, primary_key=True)
    party: Mapped[str] = mapped_column(Text)


class PaymentRow(Base):
    """A payment under a contract. Its contract and number name it, so that a file entered twice counts once."""

    __tablename__ = "dossier_payments"
    __table_args__ = (CheckConstraint("amount > 0", name="amount"),)

    dossier_id: Mapped[UUID] = mapped_column(ForeignKey("dossiers.id"), primary_key=True)
    contract: Mapped[str] = mapped_column(Text, primary_key=True)
    number: Mapped[str] = mapped_column(Text, primary_key=True)
    paid_on: Mapped[date] = mapped_column(Date)
    amount: Mapped[Decimal] = mapped_column(AMOUNT)
    currency: Mapped[str] = mapped_column(Text)
    purpose: Mapped[str] = mapped_column(Text)


class RateRow(Base):
    """The official rate of a currency on a day, as the applicant entered it."""

    __tablename__ = "dossier_rates"
    __table_args__ = (CheckConstraint("tenge > 0", name="tenge"),)

    dossier_id: Mapped[UUID] = mapped_column(ForeignKey("dossiers.id"), primary_key=True)
    currency: Mapped[str] = mapped_column(Text, primary_key=True)
    on: Mapped[date] = mapped_column(Date, primary_key=True)
    tenge: Mapped[Decimal] = mapped_column(RATE)


class CalculationRow(Base):
    """A localisation share as it was calculated and reported. Append-only in use: a further one is a further row.

    Sums are exact fractions of tenge as text ("numerator/denominator"); `responsible` and `contact` are what the form
    of Order No 604 asks for.
    """

    __tablename__ = "localisation_calculations"
    __table_args__ = (Index("ix_localisation_calculations_dossier", "dossier_id", "id"),)

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    dossier_id: Mapped[UUID] = mapped_column(ForeignKey("dossiers.id"))
    starts_on: Mapped[date] = mapped_column(Date)
    ends_on: Mapped[date] = mapped_column(Date)
    foreign_tenge: Mapped[str] = mapped_column(Text)
    total_tenge: Mapped[str] = mapped_column(Text)
    number: Mapped[str] = mapped_column(Text)
    responsible: Mapped[str] = mapped_column(Text)
    contact: Mapped[str] = mapped_column(Text)
    books_digest: Mapped[str] = mapped_column(Text)
    calculated_at: Mapped[datetime] = mapped_column(type_instant)


class DocumentRow(Base):
    """A document of a dossier: what it proves, its number, and its last day. `digest` is the file's SHA-256."""

    __tablename__ = "dossier_documents"
    __table_args__ = (
        CheckConstraint("expires_on IS NULL OR expires_on >= issued_on", name="period"),
        Index("ix_dossier_documents_expires_on", "expires_on"),
        Index(
            "uq_dossier_documents_number",
            "dossier_id",
            "code",
            "number",
            unique=True,
            postgresql_where=text("withdrawn_at IS NULL"),
        ),
    )

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    dossier_id: Mapped[UUID] = mapped_column(ForeignKey("dossiers.id"))
    code: Mapped[str] = mapped_column(Text)
    number: Mapped[str] = mapped_column(Text)
    issued_on: Mapped[date] = mapped_column(Date)
    expires_on: Mapped[date | None] = mapped_column(Date)
    level: Mapped[int | None]
    share_percent: Mapped[Decimal | None] = mapped_column(Numeric(5, 2))
    digest: Mapped[str | None] = mapped_column(Text)
    entered_at: Mapped[datetime] = mapped_column(type_instant)
    withdrawn_at: Mapped[datetime | None] = mapped_column(type_instant)


class RegisterEntryRow(Base):
    """A product's entry in one of the state's registers, as an official recorded it."""

    __tablename__ = "register_entries"
    __table_args__ = (
        CheckConstraint("register IN ('trusted', 'producers')", name="register"),
        CheckConstraint("left_on IS NULL OR left_on > entered_on", name="period"),
    )

    dossier_id: Mapped[UUID] = mapped_column(ForeignKey("dossiers.id"), primary_key=True)
    register: Mapped[str] = mapped_column(Text, primary_key=True)
    entered_on: Mapped[date] = mapped_column(Date, primary_key=True)
    left_on: Mapped[date | None] = mapped_column(Date)


class RegisterCheckRow(Base):
    """A look at an entry of the register of Kazakhstani producers, as each quarter wants one."""

    __tablename__ = "register_checks"

    dossier_id: Mapped[UUID] = mapped_column(ForeignKey("dossiers.id"), primary_key=True)
    checked_on: Mapped[date] = mapped_column(Date, primary_key=True)
    is_kept: Mapped[bool]
    checked_at: Mapped[datetime] = mapped_column(type_instant)


class ReportDocumentRow(Base):
    """The data of an issued report, from which its file is made again in any format and language."""

    __tablename__ = "report_documents"

    digest: Mapped[str] = mapped_column(ForeignKey("issued_reports.digest"), primary_key=True)
    document: Mapped[dict[str, object]] = mapped_column(JSONB)
