"""Localisation share of a software product (Order No 604 of 28 November 2025, registered as No 37506). Pure.

Arithmetic is exact: amounts and rates are decimals, sums and shares are fractions, and a share is compared with its
threshold before anything is rounded.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from decimal import ROUND_FLOOR, ROUND_HALF_EVEN, Decimal
from enum import StrEnum
from fractions import Fraction
from typing import Final

from products.localisation_errors import (
    BadAmountError,
    ConflictingRateError,
    MissingRateError,
    NotInForceError,
    PartyError,
    PeriodError,
    ZeroTotalError,
    some_of,
)

TENGE: Final = "KZT"
"""Currency of the report; every other one needs a rate of the day of payment. Source: ISO 4217."""

IN_FORCE_FROM: Final = date(2026, 1, 1)
"""First day the order applies. Source: Order No 604."""

LEAST_SHARE_RATIO: Final = Fraction(80, 100)
"""Least localisation share, inclusive. Source: Order No 604; Order No 567 of 7 November 2025."""

MOST_FOREIGN_RATIO: Final = Fraction(20, 100)
"""Most that may go abroad of all payments of the past calendar year, inclusive. Source: Order No 604."""

MAX_PAYMENTS: Final = 100_000
"""Payments of one calculation [count]: far above one product's contracts, small enough for one request."""


_CURRENCY: Final = re.compile(r"[A-Z]{3}")
_TIYN: Final = Decimal("0.01")
_PERCENT_PLACES: Final = Decimal("0.01")


class Purpose(StrEnum):
    """What a payment is for. All but `OTHER` fall under the rule for the past calendar year."""

    LICENCE = "licence"
    ROYALTY = "royalty"
    DEVELOPMENT = "development"
    MODIFICATION = "modification"
    ADAPTATION = "adaptation"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Period:
    """Reporting period, both days included.

    Raises:
        PeriodError: it ends before it begins.
    """

    starts_on: date
    ends_on: date

    def __post_init__(self) -> None:
        if self.ends_on < self.starts_on:
            raise PeriodError(
                f"the reporting period ends on {self.ends_on.isoformat()}, before it begins on "
                f"{self.starts_on.isoformat()}; swap the dates"
            )


@dataclass(frozen=True, slots=True)
class Party:
    """Who is paid.

    Args:
        id: the organisation's own key of the party.
        is_foreign: a foreign legal or natural person.
        controlled_by: id of the party that controls it, None when nobody does.
        acts_for: id of the party whose agent or representative it is, None when it acts for itself.
    """

    id: str
    is_foreign: bool
    controlled_by: str | None = None
    acts_for: str | None = None


@dataclass(frozen=True, slots=True)
class Contract:
    """A contract for the software with one party."""

    number: str
    party_id: str


@dataclass(frozen=True, slots=True)
class Payment:
    """Money paid under a contract on a day.

    Args:
        contract: number of the contract.
        paid_on: day of payment; a foreign currency is converted at this day's rate.
        amount: units of `currency`, above 0.
        currency: ISO 4217 code.
        purpose: what it was paid for.
    """

    contract: str
    paid_on: date
    amount: Decimal
    currency: str = TENGE
    purpose: Purpose = Purpose.DEVELOPMENT


@dataclass(frozen=True, slots=True)
class Rate:
    """Official rate of a currency on a day: tenge for one unit, above 0."""

    currency: str
    on: date
    tenge: Decimal


@dataclass(frozen=True, slots=True)
class Books:
    """What a calculation rests on: parties, contracts with them, payments under these, rates."""

    parties: tuple[Party, ...]
    contracts: tuple[Contract, ...]
    payments: tuple[Payment, ...]
    rates: tuple[Rate, ...] = ()


@dataclass(frozen=True, slots=True)
class Share:
    """A localisation share with what it was made of; tenge as exact fractions."""

    foreign_tenge: Fraction
    total_tenge: Fraction

    @property
    def ratio(self) -> Fraction:
        """1 - foreign / total, 0..1, exact."""
        return 1 - self.foreign_tenge / self.total_tenge

    @property
    def is_reached(self) -> bool:
        """Whether the share is at least the threshold, compared exactly."""
        return self.ratio >= LEAST_SHARE_RATIO


@dataclass(frozen=True, slots=True)
class ForeignYear:
    """What went abroad in the past calendar year, of all payments of that year; tenge as exact fractions."""

    year: int
    foreign_tenge: Fraction
    total_tenge: Fraction

    @property
    def ratio(self) -> Fraction:
        """Foreign / total, 0..1, exact."""
        return self.foreign_tenge / self.total_tenge

    @property
    def is_kept(self) -> bool:
        """Whether no more than the limit went abroad, compared exactly."""
        return self.ratio <= MOST_FOREIGN_RATIO


def localisation_share(books: Books, period: Period) -> Share:
    """Localisation share over the contracts of one software product. O(payments + parties).

    Foreign are payments to foreign persons and to parties that they control or that act for them, however many
    steps away.

    Source: Order No 604 of 28 November 2025: share = (1 - sum of F_i / sum of T_i) x 100 %, at least 80 %.

    Raises:
        ZeroTotalError: nothing was paid.
        MissingRateError: a foreign currency without the rate of its day.
        ConflictingRateError: two rates for one currency and day.
        BadAmountError: an amount or a rate that is not above 0, or more than `MAX_PAYMENTS` payments.
        PeriodError: a payment outside the period.
        PartyError: unknown, repeated or circular contracts and parties.
    """
    outside = [
        payment for payment in books.payments if not period.starts_on <= payment.paid_on <= period.ends_on
    ]
    if outside:
        named = some_of([f"{payment.contract} of {payment.paid_on.isoformat()}" for payment in outside])
        raise PeriodError(
            f"payments outside the reporting period {period.starts_on.isoformat()} to {period.ends_on.isoformat()}: "
            f"{named}; report them in their own period"
        )
    foreign, total = _sums(books, frozenset(Purpose))
    if total == 0:
        raise ZeroTotalError("of the reporting period")
    return Share(foreign, total)


def foreign_year(books: Books, applied_on: date) -> ForeignYear:
    """Share of the past calendar year's payments that went abroad. O(payments + parties).

    It is a rule of its own beside the localisation share, over all payments of that year. Licences, royalties,
    development, modification and adaptation count as foreign, also through agents and controlled organisations.

    Source: Order No 604 of 28 November 2025: at most 20 % of all payments of the past calendar year.

    Args:
        books: every payment of the calendar year before the application, and no other.
        applied_on: day of the application.

    Raises:
        NotInForceError: the application is older than the order.
        PeriodError: a payment of another year.
        ZeroTotalError: nothing was paid in that year.
        MissingRateError: a foreign currency without the rate of its day.
        ConflictingRateError: two rates for one currency and day.
        BadAmountError: an amount or a rate that is not above 0, or more than `MAX_PAYMENTS` payments.
        PartyError: unknown, repeated or circular contracts and parties.
    """
    if applied_on < IN_FORCE_FROM:
        raise NotInForceError(applied_on, IN_FORCE_FROM)
    year = applied_on.year - 1
    outside = [payment for payment in books.payments if payment.paid_on.year != year]
    if outside:
        named = some_of([f"{payment.contract} of {payment.paid_on.isoformat()}" for payment in outside])
        raise PeriodError(f"payments of another year than {year}: {named}; enter the payments of {year} only")
    foreign, total = _sums(books, frozenset(Purpose) - {Purpose.OTHER})
    if total == 0:
        raise ZeroTotalError(f"of {year}")
    return ForeignYear(year, foreign, total)


def counts_as_foreign(parties: Iterable[Party]) -> Mapping[str, bool]:
    """For each party, whether payments to it count as foreign. O(parties).

    Raises:
        PartyError: a party stands twice, names an unknown one, or is controlled in a circle.
    """
    known: dict[str, Party] = {}
    for party in parties:
        if party.id in known:
            raise PartyError(f"party {party.id} stands twice; keep one entry")
        known[party.id] = party
    verdicts: dict[str, bool] = {}
    for party_id in known:
        _judge(party_id, known, verdicts)
    return verdicts


def percent(ratio: Fraction) -> Decimal:
    """A ratio in percent with two places, rounded down, so that no figure is printed as a threshold it missed."""
    hundred = ratio * 100
    return (Decimal(hundred.numerator) / Decimal(hundred.denominator)).quantize(
        _PERCENT_PLACES, rounding=ROUND_FLOOR
    )


def tenge(amount: Fraction) -> Decimal:
    """An exact amount rounded to tiyn for printing, half to even."""
    return (Decimal(amount.numerator) / Decimal(amount.denominator)).quantize(_TIYN, rounding=ROUND_HALF_EVEN)


def _judge(start: str, known: Mapping[str, Party], verdicts: dict[str, bool]) -> None:
    """Judge a party after those it leads to; an explicit stack, as a chain of control may be long."""
    stack, open_ids = [start], set[str]()
    while stack:
        party_id = stack[-1]
        party = known[party_id]
        leads_to = [other for other in (party.controlled_by, party.acts_for) if other is not None]
        unknown = [other for other in leads_to if other not in known]
        if unknown:
            raise PartyError(
                f"party {party_id} names {unknown[0]}, which is not entered; enter that party too"
            )
        waiting = [] if party.is_foreign else [other for other in leads_to if other not in verdicts]
        if party_id not in verdicts and waiting:
            open_ids.add(party_id)
            if waiting[0] in open_ids:
                raise PartyError(
                    f"party {waiting[0]} is controlled by itself in a circle; correct who controls it"
                )
            stack.append(waiting[0])
            continue
        verdicts[party_id] = party.is_foreign or any(verdicts[other] for other in leads_to)
        open_ids.discard(party_id)
        stack.pop()


def _sums(books: Books, purposes: frozenset[Purpose]) -> tuple[Fraction, Fraction]:
    """Foreign payments of the purposes, and all payments, in tenge."""
    if len(books.payments) > MAX_PAYMENTS:
        raise BadAmountError(
            f"{len(books.payments)} payments, at most {MAX_PAYMENTS} are taken; sum small ones by contract and day"
        )
    is_foreign = counts_as_foreign(books.parties)
    party_of: dict[str, str] = {}
    for contract in books.contracts:
        if contract.number in party_of:
            raise PartyError(f"contract {contract.number} stands twice; keep one entry")
        if contract.party_id not in is_foreign:
            raise PartyError(
                f"contract {contract.number} names party {contract.party_id}, which is not entered"
            )
        party_of[contract.number] = contract.party_id
    rates = _rates(books.rates)
    foreign, total, missing = Fraction(0), Fraction(0), set[tuple[str, date]]()
    for payment in books.payments:
        if payment.contract not in party_of:
            raise PartyError(f"a payment names contract {payment.contract}, which is not entered; enter it")
        amount = check_amount(payment.amount, f"payment under contract {payment.contract}", payment.currency)
        rate = Fraction(1) if payment.currency == TENGE else rates.get((payment.currency, payment.paid_on))
        if rate is None:
            missing.add((payment.currency, payment.paid_on))
            continue
        total += amount * rate
        if is_foreign[party_of[payment.contract]] and payment.purpose in purposes:
            foreign += amount * rate
    if missing:
        raise MissingRateError(sorted(missing))
    return foreign, total


def _rates(given: Iterable[Rate]) -> dict[tuple[str, date], Fraction]:
    rates: dict[tuple[str, date], Fraction] = {}
    for rate in given:
        value = check_amount(rate.tenge, f"rate of {rate.currency} on {rate.on.isoformat()}", rate.currency)
        if rates.setdefault((rate.currency, rate.on), value) != value:
            raise ConflictingRateError(rate.currency, rate.on)
    return rates


def check_amount(number: Decimal, what: str, currency: str) -> Fraction:
    """The exact value of an amount or a rate, above 0, in a currency with an ISO 4217 code.

    Raises:
        BadAmountError: it is none.
    """
    if _CURRENCY.fullmatch(currency) is None:
        raise BadAmountError(
            f"{what}: {currency!r} is no currency code; write three capital letters, as KZT or USD"
        )
    if not number.is_finite() or number <= 0:
        raise BadAmountError(f"{what} is {number}; enter an amount above 0, and leave a returned payment out")
    return Fraction(number)
