"""Localisation shares from a dossier's books: asked for, calculated and kept, and reported in the form of the order."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime
from fractions import Fraction
from typing import Final

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from products.indicator import ALMATY
from products.kpi import FutureError
from products.localisation import (
    ForeignYear,
    Period,
    Share,
    foreign_year,
    localisation_share,
    percent,
    tenge,
)
from products.localisation_books import books, books_digest
from products.registers_service import DossierNotFoundError, DossierRecord
from products.registers_tables import CalculationRow, PaymentRow
from products.reports.data import LocalisationForm
from store import journal
from tenants.identifiers import IdentifierError, check_bin, check_iin
from tenants.model import Organisation

MAX_CALCULATIONS: Final = 200
"""Calculations of one list [count], the newest first: more than a year's worth of daily ones is no report."""


@dataclass(frozen=True, slots=True)
class Figures:
    """What the books say of a period.

    Args:
        share: the localisation share of the period.
        payments: payments of the period.
        payments_outside: payments of the dossier in other periods, which are not part of it.
        foreign: what went abroad in the calendar year before the application; None when none was asked for.
    """

    share: Share
    payments: int
    payments_outside: int
    foreign: ForeignYear | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """A calculation to be made and kept, with what the form asks for.

    Args:
        period: reporting period.
        number: IIN of an applicant without BIN; None takes the organisation's BIN.
        responsible: person responsible.
        contact: telephone or e-mail.
    """

    period: Period
    number: str | None
    responsible: str
    contact: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Calculation:
    """A share that was calculated and kept."""

    id: int
    period: Period
    share: Share
    number: str
    responsible: str
    contact: str
    books_digest: str
    calculated_at: datetime


def figures(
    session: Session, record: DossierRecord, period: Period, applied_on: date | None = None
) -> Figures:
    """What the books say of a period, and of the calendar year before an application.

    Raises:
        LocalisationError: there is no share: nothing was paid, or a rate is missing.
    """
    found = books(session, record, period)
    total = session.scalar(select(func.count()).where(PaymentRow.dossier_id == record.id)) or 0
    before = None
    if applied_on is not None:
        year = applied_on.year - 1
        whole = Period(date(year, 1, 1), date(year, 12, 31))
        before = foreign_year(books(session, record, whole), applied_on)
    return Figures(
        localisation_share(found, period), len(found.payments), total - len(found.payments), before
    )


def calculate(
    session: Session,
    record: DossierRecord,
    organisation: Organisation,
    order: Order,
    *,
    actor: str,
    at: datetime,
) -> Calculation:
    """Calculate the share of a period and keep it: the calculation report of Order No 604.

    Raises:
        FutureError: the period has not ended.
        LocalisationError: there is no share.
        IdentifierError: the IIN is none, or the applicant has neither BIN nor IIN.
    """
    if order.period.ends_on > at.astimezone(ALMATY).date():
        raise FutureError(f"the period to {order.period.ends_on}", at)
    number = _number(organisation, order.number)
    found = books(session, record, order.period)
    share = localisation_share(found, order.period)
    row = CalculationRow(
        dossier_id=record.id,
        starts_on=order.period.starts_on,
        ends_on=order.period.ends_on,
        foreign_tenge=str(share.foreign_tenge),
        total_tenge=str(share.total_tenge),
        number=number,
        responsible=order.responsible,
        contact=order.contact,
        books_digest=books_digest(found),
        calculated_at=at,
    )
    session.add(row)
    session.flush()
    data: dict[str, object] = {
        "calculation_id": row.id,
        "starts_on": row.starts_on.isoformat(),
        "ends_on": row.ends_on.isoformat(),
        "is_reached": share.is_reached,
        "digest": row.books_digest,
    }
    journal.append(session, "localisation.calculated", f"dossier:{record.id}", actor=actor, at=at, data=data)
    return _calculation(row)


def calculations(session: Session, record: DossierRecord) -> tuple[Calculation, ...]:
    """A dossier's calculations, the newest first, at most `MAX_CALCULATIONS`."""
    rows = session.scalars(
        select(CalculationRow)
        .where(CalculationRow.dossier_id == record.id)
        .order_by(CalculationRow.id.desc())
        .limit(MAX_CALCULATIONS)
    )
    return tuple(_calculation(row) for row in rows)


def calculation(session: Session, record: DossierRecord, calculation_id: int) -> Calculation:
    """One calculation of a dossier.

    Raises:
        DossierNotFoundError: the dossier has no such calculation.
    """
    row = session.get(CalculationRow, calculation_id)
    if row is None or row.dossier_id != record.id:
        raise DossierNotFoundError(f"calculation {calculation_id} of dossier {record.slug}")
    return _calculation(row)


def form_of(
    record: DossierRecord, organisation: Organisation, made: Calculation, language: str
) -> LocalisationForm:
    """The report in the form of the annex to Order No 604, with the names in a language."""
    return LocalisationForm(
        organisation=organisation.name[language],
        number=made.number,
        product=record.name[language],
        starts_on=made.period.starts_on,
        ends_on=made.period.ends_on,
        responsible=made.responsible,
        contact=made.contact,
        foreign_tenge=tenge(made.share.foreign_tenge),
        total_tenge=tenge(made.share.total_tenge),
        share_percent=percent(made.share.ratio),
        is_reached=made.share.is_reached,
        as_of=made.calculated_at,
    )


def _number(organisation: Organisation, given: str | None) -> str:
    if given is not None:
        return check_iin(given)
    if organisation.bin is None:
        raise IdentifierError(
            "BIN",
            f"of organisation {organisation.slug} is not known; give the IIN that is to stand in the form",
        )
    return check_bin(organisation.bin)


def _calculation(row: CalculationRow) -> Calculation:
    return Calculation(
        id=row.id,
        period=Period(row.starts_on, row.ends_on),
        share=Share(Fraction(row.foreign_tenge), Fraction(row.total_tenge)),
        number=row.number,
        responsible=row.responsible,
        contact=row.contact,
        books_digest=row.books_digest,
        calculated_at=row.calculated_at,
    )
