"""Registers that open the market to a software product: criteria by date, expiring documents, order of steps. Pure.

Source: Order No 53 of 2018 as amended by Order No 567 of 7 November 2025 (registered as No 37408); Order No 604 of
28 November 2025 (registered as No 37506).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date, timedelta
from enum import StrEnum
from fractions import Fraction
from typing import Final

from products.localisation import LEAST_SHARE_RATIO

CHANGE_ON: Final = date(2026, 1, 1)
"""From this day the localisation share replaces the industrial certificate. Source: Order No 567."""

LEAST_ASSURANCE_LEVEL: Final = 4
"""Least evaluation assurance level. Source: Order No 567, after ST RK ISO/IEC 15408-3-2017."""

LEAST_CERTIFICATE_RATIO: Final = Fraction(30, 100)
"""Least share in the industrial certificate of an electronic product until `CHANGE_ON`. Source: Order No 567."""

REMIND_DAYS: Final = 60
"""Calendar days before its last day from which an expiring document is mentioned."""

RENEW_DAYS: Final = 30
"""Calendar days before its last day by which a document must be renewed. Source: Order No 567."""

_MONTHS_IN_QUARTER: Final = 3


class Kind(StrEnum):
    """What is entered in the trusted register."""

    SOFTWARE = "software"
    ELECTRONICS = "electronics"


class Criterion(StrEnum):
    """Stable codes of the criteria of the trusted register."""

    ASSURANCE_OR_PROTOCOLS = "assurance-or-protocols"
    EXCLUSIVE_RIGHTS = "exclusive-rights"
    LOCALISATION_SHARE = "localisation-share"
    INDUSTRIAL_CERTIFICATE = "industrial-certificate"
    PRODUCERS_EXTRACT = "producers-extract"
    SUPPORT_IN_KAZAKHSTAN = "support-in-kazakhstan"


@dataclass(frozen=True, slots=True, kw_only=True)
class Dossier:
    """What an applicant can show for one product.

    Args:
        kind: software or electronic product.
        assurance_level: evaluation assurance level of its certificate, None without one.
        has_protocols: positive test protocols of an accredited laboratory.
        has_exclusive_rights: exclusive rights belong to the applicant for the whole territory and term.
        localisation_ratio: exact localisation share 0..1, None when it was not calculated.
        certificate_ratio: share in the industrial certificate 0..1, None without a certificate.
        has_producers_extract: an extract from the register of Kazakhstani producers.
        has_support_form: technical support in Kazakhstan, in the form of annex 10.
    """

    kind: Kind
    assurance_level: int | None = None
    has_protocols: bool = False
    has_exclusive_rights: bool = False
    localisation_ratio: Fraction | None = None
    certificate_ratio: Fraction | None = None
    has_producers_extract: bool = False
    has_support_form: bool = False


@dataclass(frozen=True, slots=True)
class DatedRule:
    """A criterion with the days it applies on.

    Args:
        criterion: its code.
        kind: what it is asked of.
        holds: decides it from the dossier.
        from_on: first day, None = as far back as applications go.
        until_on: first day on which it applies no more, None = it still does.
    """

    criterion: Criterion
    kind: Kind
    holds: Callable[[Dossier], bool]
    from_on: date | None = None
    until_on: date | None = None

    def applies(self, on: date) -> bool:
        """Whether the rule is asked of an application of that day."""
        return (self.from_on is None or self.from_on <= on) and (self.until_on is None or on < self.until_on)


@dataclass(frozen=True, slots=True)
class Finding:
    """A criterion that applied, and whether it held."""

    criterion: Criterion
    holds: bool


def _is_tested(dossier: Dossier) -> bool:
    level = dossier.assurance_level
    return dossier.has_protocols or (level is not None and level >= LEAST_ASSURANCE_LEVEL)


def _reaches(ratio: Fraction | None, least: Fraction) -> bool:
    return ratio is not None and ratio >= least


RULES: Final = (
    DatedRule(Criterion.ASSURANCE_OR_PROTOCOLS, Kind.SOFTWARE, _is_tested),
    DatedRule(Criterion.EXCLUSIVE_RIGHTS, Kind.SOFTWARE, lambda dossier: dossier.has_exclusive_rights),
    DatedRule(
        Criterion.INDUSTRIAL_CERTIFICATE,
        Kind.SOFTWARE,
        lambda dossier: dossier.certificate_ratio is not None,
        until_on=CHANGE_ON,
    ),
    DatedRule(
        Criterion.LOCALISATION_SHARE,
        Kind.SOFTWARE,
        lambda dossier: _reaches(dossier.localisation_ratio, LEAST_SHARE_RATIO),
        from_on=CHANGE_ON,
    ),
    DatedRule(Criterion.SUPPORT_IN_KAZAKHSTAN, Kind.SOFTWARE, lambda dossier: dossier.has_support_form),
    DatedRule(
        Criterion.INDUSTRIAL_CERTIFICATE,
        Kind.ELECTRONICS,
        lambda dossier: _reaches(dossier.certificate_ratio, LEAST_CERTIFICATE_RATIO),
        until_on=CHANGE_ON,
    ),
    DatedRule(
        Criterion.PRODUCERS_EXTRACT,
        Kind.ELECTRONICS,
        lambda dossier: dossier.has_producers_extract,
        from_on=CHANGE_ON,
    ),
)
"""Criteria of the trusted register with their dates. Source: Order No 567 of 7 November 2025."""


def trusted_findings(dossier: Dossier, applied_on: date) -> tuple[Finding, ...]:
    """Every criterion that applies on the day of the application, held or not; all must hold for an entry.

    Source: Order No 567 of 7 November 2025.
    """
    return tuple(
        Finding(rule.criterion, rule.holds(dossier))
        for rule in RULES
        if rule.kind is dossier.kind and rule.applies(applied_on)
    )


class DocumentState(StrEnum):
    """Where a document stands before its last day."""

    VALID = "valid"
    REMINDER = "reminder"
    ALARM = "alarm"
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True)
class ExpiringDocument:
    """A document of an entry; `expires_on` is the last day it is valid."""

    entry: str
    code: str
    number: str
    expires_on: date


@dataclass(frozen=True, slots=True)
class Expiry:
    """A document's state on a day.

    Args:
        document: the document.
        state: reminder from 60 days before its last day, alarm from 30, expired after it.
        days_left: calendar days to its last day, negative after it.
        renew_by: last day on which it is renewed in time.
        is_renewal_late: `renew_by` has passed.
    """

    document: ExpiringDocument
    state: DocumentState
    days_left: int
    renew_by: date
    is_renewal_late: bool


def expiry(document: ExpiringDocument, on: date) -> Expiry:
    """How a document stands on a day.

    Source: Order No 567: documents are renewed no later than 30 calendar days before they expire.
    """
    days_left = (document.expires_on - on).days
    if days_left < 0:
        state = DocumentState.EXPIRED
    elif days_left <= RENEW_DAYS:
        state = DocumentState.ALARM
    elif days_left <= REMIND_DAYS:
        state = DocumentState.REMINDER
    else:
        state = DocumentState.VALID
    renew_by = document.expires_on - timedelta(days=RENEW_DAYS)
    return Expiry(document, state, days_left, renew_by, is_renewal_late=on > renew_by)


def due(documents: Iterable[ExpiringDocument], on: date) -> tuple[Expiry, ...]:
    """Documents that want attention on a day, the most urgent first. O(n log n)."""
    found = (expiry(document, on) for document in documents)
    return tuple(
        sorted(
            (item for item in found if item.state is not DocumentState.VALID),
            key=lambda item: (item.days_left, item.document.entry, item.document.code, item.document.number),
        )
    )


class Proof(StrEnum):
    """What an application to the register of Kazakhstani producers is proved with. Source: Order No 604."""

    CALCULATION = "calculation"
    CONTRACTS = "contracts"
    ORDER_TO_START = "order-to-start"
    TERMS_OF_REFERENCE = "terms-of-reference"
    ORDER_INTO_OPERATION = "order-into-operation"
    EXCLUSIVE_RIGHTS = "exclusive-rights"
    EMPLOYEES = "employees"


PRODUCTION_PROOFS: Final = frozenset(
    {Proof.ORDER_TO_START, Proof.TERMS_OF_REFERENCE, Proof.ORDER_INTO_OPERATION}
)
"""Documents that prove production on the territory. Source: Order No 604."""


@dataclass(frozen=True, slots=True)
class Producer:
    """What the register of Kazakhstani producers asks of one software product.

    Args:
        product: slug of the product; eligibility is per product.
        proofs: documents in hand.
        trusted_since: day it was entered in the trusted register, None when it is not there.
        trusted_until: first day it is no longer there, None while it is.
    """

    product: str
    proofs: frozenset[Proof]
    trusted_since: date | None = None
    trusted_until: date | None = None


@dataclass(frozen=True, slots=True)
class Eligibility:
    """Both conditions of section 3 on a day, and what is missing. `missing` is sorted by the order of `Proof`."""

    product: str
    is_produced_here: bool
    is_trusted: bool
    missing: tuple[Proof, ...]

    @property
    def is_eligible(self) -> bool:
        """Both conditions hold."""
        return self.is_produced_here and self.is_trusted


def eligibility(producer: Producer, on: date) -> Eligibility:
    """Whether a product may be entered in the register of Kazakhstani producers on a day.

    Source: Order No 604, section 3: produced on the territory, and entered in the trusted-software register.
    """
    since, until = producer.trusted_since, producer.trusted_until
    return Eligibility(
        product=producer.product,
        is_produced_here=producer.proofs >= PRODUCTION_PROOFS,
        is_trusted=since is not None and since <= on and (until is None or on < until),
        missing=tuple(proof for proof in Proof if proof not in producer.proofs),
    )


@dataclass(frozen=True, slots=True)
class CheckItem:
    """An entry of the quarterly check list; `is_due` until it was looked at in the quarter."""

    eligibility: Eligibility
    expiries: tuple[Expiry, ...]
    checked_on: date | None
    is_due: bool


def quarter(on: date) -> tuple[date, date]:
    """First and last day of a day's calendar quarter."""
    first_month = (on.month - 1) // _MONTHS_IN_QUARTER * _MONTHS_IN_QUARTER + 1
    starts_on = date(on.year, first_month, 1)
    year, month = divmod(on.year * 12 + first_month - 1 + _MONTHS_IN_QUARTER, 12)
    return starts_on, date(year, month + 1, 1) - timedelta(days=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Registered:
    """Entries of the register of Kazakhstani producers with their documents and last checks (by product)."""

    producers: tuple[Producer, ...]
    documents: tuple[ExpiringDocument, ...] = ()
    checked_on: Mapping[str, date] = field(default_factory=dict)


def check_list(registered: Registered, on: date) -> tuple[CheckItem, ...]:
    """The quarter's check list: every entry, whether it still qualifies, what runs out; due ones first.

    Source: Order No 604, section 6: the authority checks the register quarterly.
    """
    starts_on, _ = quarter(on)
    attention: dict[str, list[Expiry]] = {}
    for item in due(registered.documents, on):
        attention.setdefault(item.document.entry, []).append(item)
    items = []
    for producer in registered.producers:
        checked_on = registered.checked_on.get(producer.product)
        was_checked = checked_on is not None and starts_on <= checked_on <= on
        items.append(
            CheckItem(
                eligibility(producer, on),
                tuple(attention.get(producer.product, ())),
                checked_on,
                is_due=not was_checked,
            )
        )
    return tuple(sorted(items, key=lambda item: (not item.is_due, item.eligibility.product)))


class Step(StrEnum):
    """The order of steps. Source: Orders No 604, No 53 as amended by No 567, No 604 section 3 with No 327."""

    LOCALISATION_SHARE = "localisation-share"
    TRUSTED_REGISTER = "trusted-register"
    PRODUCERS_REGISTER = "producers-register"


@dataclass(frozen=True, slots=True)
class StepState:
    """A step, whether it is done, and whether it is the next one to take."""

    step: Step
    is_done: bool
    is_next: bool


def steps(dossier: Dossier, eligible: Eligibility, *, is_registered: bool) -> tuple[StepState, ...]:
    """The three steps in their order; the first that is not done is next, whatever was done after it."""
    done = (
        _reaches(dossier.localisation_ratio, LEAST_SHARE_RATIO),
        eligible.is_trusted,
        is_registered,
    )
    following = next((place for place, is_done in enumerate(done) if not is_done), None)
    return tuple(
        StepState(step, is_done, is_next=place == following)
        for place, (step, is_done) in enumerate(zip(Step, done, strict=True))
    )
