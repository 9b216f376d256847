"""A dossier's books: parties, contracts, payments and rates, as the applicant entered them.

Entering the same thing again changes nothing; entering something else under the same key is refused unless it is said
to be a correction. Every change is journaled with the SHA-256 of what was entered; names and sums stay in the tables.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from fractions import Fraction
from typing import Final, TypeVar, cast

from sqlalchemy import func, select, tuple_
from sqlalchemy.orm import Session

from products.indicator import ALMATY
from products.localisation import (
    MAX_PAYMENTS,
    Books,
    Contract,
    Party,
    Payment,
    Period,
    Purpose,
    Rate,
    check_amount,
    counts_as_foreign,
)
from products.localisation_errors import BadAmountError, PartyError, PeriodError
from products.registers_service import DossierConflictError, DossierNotFoundError, DossierRecord
from products.registers_tables import ContractRow, DossierRow, PartyRow, PaymentRow, RateRow
from store import journal

MAX_PAGE: Final = 200
"""Payments of one page."""
NO_PERIOD: Final = Period(date.min, date.min)
"""A period without payments: only parties, contracts and rates are wanted."""

V = TypeVar("V")


class EntryConflictError(DossierConflictError):
    """Something else stands under the key of an entry, and the entry is not said to be a correction."""


@dataclass(frozen=True, slots=True)
class NumberedPayment:
    """A payment with the number of its order: the two name it together with the contract."""

    number: str
    payment: Payment


@dataclass(frozen=True, slots=True, kw_only=True)
class Entries:
    """What is entered at once, all or nothing.

    Args:
        period: the reporting period that the payments are of; one outside it is refused.
        parties: who is paid.
        contracts: with them.
        payments: under these.
        rates: tenge for one unit of a currency on a day.
        is_correction: whether what stands under the same key may be replaced.
    """

    period: Period
    parties: tuple[Party, ...] = ()
    contracts: tuple[Contract, ...] = ()
    payments: tuple[NumberedPayment, ...] = ()
    rates: tuple[Rate, ...] = ()
    is_correction: bool = False


@dataclass(frozen=True, slots=True)
class Entered:
    """What became of entries: new ones, those that were there already, and those that replaced another."""

    added: int
    unchanged: int
    corrected: int


def enter(session: Session, record: DossierRecord, entries: Entries, *, actor: str, at: datetime) -> Entered:
    """Enter parties, contracts, payments and rates, all or nothing.

    Raises:
        PeriodError: a payment outside the stated period, or of a day to come.
        BadAmountError: an amount or rate that is not above 0, a currency that is no code, or too many payments.
        PartyError: an unknown party or contract, or control in a circle.
        EntryConflictError: something else stands under the same key, and it is no correction.
    """
    _check_days(entries, at.astimezone(ALMATY).date())
    session.execute(select(DossierRow.id).where(DossierRow.id == record.id).with_for_update())
    counts = [0, 0, 0]
    for rows in _rows(record, entries):
        known = _known(session, record, rows)
        for row in rows:
            found = known.setdefault(_key(row), row)
            if found is row:
                session.add(row)
                counts[0] += 1
            elif _values(found) == _values(row):
                counts[1] += 1
            elif entries.is_correction:
                for name, value in _values(row).items():
                    setattr(found, name, value)
                counts[2] += 1
            else:
                raise EntryConflictError(
                    f"{' '.join(map(str, _key(row)))} was entered with other values; check the file, and say that it "
                    "is a correction if the new values are right"
                )
    session.flush()
    _check_books(session, record, entries)
    made = Entered(*counts)
    entered = Books(
        entries.parties, entries.contracts, tuple(each.payment for each in entries.payments), entries.rates
    )
    data: dict[str, object] = {
        "added": made.added,
        "unchanged": made.unchanged,
        "corrected": made.corrected,
        "digest": books_digest(entered),
    }
    journal.append(session, "localisation.entered", f"dossier:{record.id}", actor=actor, at=at, data=data)
    return made


def remove_payment(
    session: Session, record: DossierRecord, key: tuple[str, str], *, actor: str, at: datetime
) -> None:
    """Remove a payment that was entered by mistake.

    Args:
        session: the open unit of work.
        record: the dossier.
        key: number of the contract, and of the payment.
        actor: who removes it.
        at: the instant.

    Raises:
        DossierNotFoundError: there is no such payment.
    """
    row = session.get(PaymentRow, (record.id, *key), with_for_update=True)
    if row is None:
        raise DossierNotFoundError(f"payment {key[1]} under contract {key[0]}")
    session.delete(row)
    removed = hashlib.sha256(json.dumps([*key, str(row.paid_on), _plain(row.amount)]).encode()).hexdigest()
    data: dict[str, object] = {"digest": removed}
    journal.append(session, "localisation.removed", f"dossier:{record.id}", actor=actor, at=at, data=data)


def books(session: Session, record: DossierRecord, period: Period | None = None) -> Books:
    """The books of a dossier; of a period only its payments, with all parties, contracts and rates."""
    return Books(
        parties=tuple(
            Party(row.key, row.is_foreign, row.controlled_by, row.acts_for)
            for row in session.scalars(
                select(PartyRow).where(PartyRow.dossier_id == record.id).order_by(PartyRow.key)
            )
        ),
        contracts=tuple(
            Contract(row.number, row.party)
            for row in session.scalars(
                select(ContractRow).where(ContractRow.dossier_id == record.id).order_by(ContractRow.number)
            )
        ),
        payments=tuple(each.payment for each in payments(session, record, period)),
        rates=tuple(
            Rate(row.currency, row.on, row.tenge)
            for row in session.scalars(
                select(RateRow).where(RateRow.dossier_id == record.id).order_by(RateRow.currency, RateRow.on)
            )
        ),
    )


def payments(
    session: Session, record: DossierRecord, period: Period | None = None
) -> tuple[NumberedPayment, ...]:
    """A dossier's payments by contract and number; those of a period only, when one is given."""
    statement = select(PaymentRow).where(PaymentRow.dossier_id == record.id)
    if period is not None:
        statement = statement.where(PaymentRow.paid_on.between(period.starts_on, period.ends_on))
    rows = session.scalars(statement.order_by(PaymentRow.contract, PaymentRow.number))
    return tuple(_payment(row) for row in rows)


def page(
    session: Session, record: DossierRecord, *, after: tuple[str, str] | None, limit: int
) -> tuple[tuple[NumberedPayment, ...], tuple[str, str] | None]:
    """A page of a dossier's payments by contract and number, and the key to go on after."""
    size = max(1, min(limit, MAX_PAGE))
    statement = select(PaymentRow).where(PaymentRow.dossier_id == record.id)
    if after is not None:
        statement = statement.where(tuple_(PaymentRow.contract, PaymentRow.number) > tuple_(*after))
    ordered = statement.order_by(PaymentRow.contract, PaymentRow.number).limit(size + 1)
    rows = session.scalars(ordered).all()
    last = rows[size - 1] if len(rows) > size else None
    more = None if last is None else (last.contract, last.number)
    return tuple(_payment(row) for row in rows[:size]), more


def books_digest(found: Books) -> str:
    """SHA-256 (hex) of the books' canonical JSON: what a calculation rested on."""

    def listed(items: Iterable[V], told: Callable[[V], Sequence[object]]) -> list[Sequence[object]]:
        return sorted((told(item) for item in items), key=str)

    document = {
        "parties": listed(
            found.parties, lambda each: (each.id, each.is_foreign, each.controlled_by, each.acts_for)
        ),
        "contracts": listed(found.contracts, lambda each: (each.number, each.party_id)),
        "payments": listed(
            found.payments,
            lambda each: (
                each.contract,
                str(each.paid_on),
                _plain(each.amount),
                each.currency,
                each.purpose.value,
            ),
        ),
        "rates": listed(found.rates, lambda each: (each.currency, str(each.on), _plain(each.tenge))),
    }
    return hashlib.sha256(json.dumps(document, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _payment(row: PaymentRow) -> NumberedPayment:
    purpose = Purpose(row.purpose)
    return NumberedPayment(row.number, Payment(row.contract, row.paid_on, row.amount, row.currency, purpose))


def _plain(number: Decimal) -> str:
    return str(Fraction(number))


def _check_days(entries: Entries, today: date) -> None:
    for each in entries.payments:
        paid_on = each.payment.paid_on
        if not entries.period.starts_on <= paid_on <= entries.period.ends_on:
            raise PeriodError(
                f"payment {each.number} under contract {each.payment.contract} is of {paid_on}, outside the period "
                f"{entries.period.starts_on} to {entries.period.ends_on}; enter it with its own period"
            )
        if paid_on > today:
            raise PeriodError(
                f"payment {each.number} under contract {each.payment.contract} is of {paid_on}, a day to come; enter "
                "payments once they are made"
            )
        check_amount(each.payment.amount, f"payment {each.number}", each.payment.currency)
    for rate in entries.rates:
        check_amount(rate.tenge, f"rate of {rate.currency} on {rate.on}", rate.currency)


def _check_books(session: Session, record: DossierRecord, entries: Entries) -> None:
    """Whether what is named is there, over the whole dossier, as an earlier file may name it."""
    held = session.scalar(select(func.count()).where(PaymentRow.dossier_id == record.id)) or 0
    if held > MAX_PAYMENTS:
        raise BadAmountError(
            f"the dossier would hold {held} payments, at most {MAX_PAYMENTS} are taken; sum small ones"
        )
    found = books(session, record, NO_PERIOD)
    parties = counts_as_foreign(found.parties)
    for contract in found.contracts:
        if contract.party_id not in parties:
            raise PartyError(
                f"contract {contract.number} names party {contract.party_id}, which is not entered; enter it"
            )
    numbers = {contract.number for contract in found.contracts}
    for each in entries.payments:
        if each.payment.contract not in numbers:
            raise PartyError(
                f"payment {each.number} names contract {each.payment.contract}, which is not entered; enter it"
            )


_Row = PartyRow | ContractRow | PaymentRow | RateRow


def _rows(record: DossierRecord, entries: Entries) -> Iterable[list[_Row]]:
    yield [
        PartyRow(
            dossier_id=record.id,
            key=party.id,
            is_foreign=party.is_foreign,
            controlled_by=party.controlled_by,
            acts_for=party.acts_for,
        )
        for party in entries.parties
    ]
    yield [
        ContractRow(dossier_id=record.id, number=contract.number, party=contract.party_id)
        for contract in entries.contracts
    ]
    yield [
        PaymentRow(
            dossier_id=record.id,
            contract=each.payment.contract,
            number=each.number,
            paid_on=each.payment.paid_on,
            amount=each.payment.amount,
            currency=each.payment.currency,
            purpose=each.payment.purpose.value,
        )
        for each in entries.payments
    ]
    yield [
        RateRow(dossier_id=record.id, currency=rate.currency, on=rate.on, tenge=rate.tenge)
        for rate in entries.rates
    ]


def _known(session: Session, record: DossierRecord, rows: list[_Row]) -> dict[tuple[object, ...], _Row]:
    """Those of the rows' keys that stand already, in one query."""
    if not rows:
        return {}
    kind: type[_Row] = type(rows[0])
    columns = [getattr(kind, name) for name in _key_names(rows[0])]
    found = session.scalars(
        select(kind).where(kind.dossier_id == record.id, tuple_(*columns).in_([_key(row) for row in rows]))
    ).all()
    return {_key(row): row for row in cast("Sequence[_Row]", found)}


def _key_names(row: _Row) -> list[str]:
    """Names of what a row is told by inside its dossier."""
    names = [column.key for column in row.__mapper__.primary_key if column.key is not None]
    return [name for name in names if name != "dossier_id"]


def _key(row: _Row) -> tuple[object, ...]:
    return tuple(getattr(row, name) for name in _key_names(row))


def _values(row: _Row) -> dict[str, object]:
    names = {"dossier_id", *_key_names(row)}
    keys = [column.key for column in row.__mapper__.columns]
    return {key: getattr(row, key) for key in keys if key not in names}
