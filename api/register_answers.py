"""What the API answers about dossiers, localisation shares and registers: wire types, made of the room's values."""

from __future__ import annotations

from datetime import date, datetime
from uuid import UUID

from pydantic import BaseModel

from api.answers import NamesOut
from products.dossier import DocumentCode
from products.localisation import ForeignYear, Share, percent, tenge
from products.localisation_books import Entered, NumberedPayment
from products.localisation_service import Calculation, Figures
from products.registers import CheckItem, Criterion, DocumentState, Eligibility, Expiry, Kind, Proof, Step
from products.registers_service import DossierRecord, StoredDocument
from products.registers_standing import Standing
from products.reports.archive import IssuedReport
from tenants.identifiers import mask_iin


class DossierOut(BaseModel):
    """A dossier of one product for the registers of the state."""

    id: UUID
    slug: str
    project_id: UUID
    kind: Kind
    name: NamesOut
    opened_at: datetime

    @classmethod
    def of(cls, found: DossierRecord) -> DossierOut:
        """The wire form."""
        same = ("id", "slug", "project_id", "kind", "opened_at")
        return cls(name=NamesOut.of(found.name), **{name: getattr(found, name) for name in same})


class DocumentOut(BaseModel):
    """A document of a dossier."""

    id: int
    code: DocumentCode
    number: str
    issued_on: date
    expires_on: date | None
    level: int | None
    share_percent: str | None
    sha256: str | None
    entered_at: datetime

    @classmethod
    def of(cls, stored: StoredDocument) -> DocumentOut:
        """The wire form."""
        found = stored.document
        return cls(
            id=stored.id,
            code=found.code,
            number=found.number,
            issued_on=found.issued_on,
            expires_on=found.expires_on,
            level=found.level,
            share_percent=None if found.share_ratio is None else str(percent(found.share_ratio)),
            sha256=stored.digest,
            entered_at=stored.entered_at,
        )


class CriterionOut(BaseModel):
    """A criterion of the trusted-software register that applies on the day."""

    criterion: Criterion
    holds: bool


class StepOut(BaseModel):
    """A step of the order of steps; `is_next` marks the one to take."""

    step: Step
    is_done: bool
    is_next: bool


class ExpiryOut(BaseModel):
    """A document that wants attention: `renew_by` is the last day it is renewed in time."""

    dossier: str
    code: DocumentCode
    number: str
    expires_on: date
    days_left: int
    state: DocumentState
    renew_by: date
    is_renewal_late: bool

    @classmethod
    def of(cls, found: Expiry) -> ExpiryOut:
        """The wire form."""
        document = found.document
        return cls(
            dossier=document.entry,
            code=DocumentCode(document.code),
            number=document.number,
            expires_on=document.expires_on,
            days_left=found.days_left,
            state=found.state,
            renew_by=found.renew_by,
            is_renewal_late=found.is_renewal_late,
        )


class EligibilityOut(BaseModel):
    """Both conditions for the register of Kazakhstani producers (Order No 604, section 3)."""

    is_eligible: bool
    is_produced_here: bool
    is_trusted: bool
    missing: list[Proof]

    @classmethod
    def of(cls, found: Eligibility) -> EligibilityOut:
        """The wire form."""
        return cls(
            is_eligible=found.is_eligible,
            is_produced_here=found.is_produced_here,
            is_trusted=found.is_trusted,
            missing=list(found.missing),
        )


class StandingOut(BaseModel):
    """How a dossier stands on a day."""

    on: date
    meets_criteria: bool
    criteria: list[CriterionOut]
    eligibility: EligibilityOut
    steps: list[StepOut]
    expiries: list[ExpiryOut]
    share_percent: str | None

    @classmethod
    def of(cls, found: Standing) -> StandingOut:
        """The wire form."""
        return cls(
            on=found.on,
            meets_criteria=all(each.holds for each in found.findings),
            criteria=[CriterionOut(criterion=each.criterion, holds=each.holds) for each in found.findings],
            eligibility=EligibilityOut.of(found.eligibility),
            steps=[StepOut(step=s.step, is_done=s.is_done, is_next=s.is_next) for s in found.steps],
            expiries=[ExpiryOut.of(each) for each in found.expiries],
            share_percent=None if found.share_ratio is None else str(percent(found.share_ratio)),
        )


class DossierDetailOut(DossierOut):
    """A dossier with its documents and how it stands."""

    documents: list[DocumentOut]
    standing: StandingOut


class RemindersOut(BaseModel):
    """Documents that want attention, the most urgent first."""

    on: date
    items: list[ExpiryOut]


class CheckItemOut(BaseModel):
    """An entry of the quarter's check list."""

    dossier: str
    eligibility: EligibilityOut
    expiries: list[ExpiryOut]
    checked_on: date | None
    is_due: bool

    @classmethod
    def of(cls, found: CheckItem) -> CheckItemOut:
        """The wire form."""
        return cls(
            dossier=found.eligibility.product,
            eligibility=EligibilityOut.of(found.eligibility),
            expiries=[ExpiryOut.of(each) for each in found.expiries],
            checked_on=found.checked_on,
            is_due=found.is_due,
        )


class CheckListOut(BaseModel):
    """The quarter's check list of the register of Kazakhstani producers; due entries first."""

    on: date
    quarter_starts_on: date
    quarter_ends_on: date
    items: list[CheckItemOut]


class EnteredOut(BaseModel):
    """What became of entries."""

    added: int
    unchanged: int
    corrected: int

    @classmethod
    def of(cls, found: Entered) -> EnteredOut:
        """The wire form."""
        return cls(added=found.added, unchanged=found.unchanged, corrected=found.corrected)


class PaymentOut(BaseModel):
    """A payment; `counts_as_foreign` when it went to a foreign party, or to one controlled by or acting for such."""

    contract: str
    number: str
    party: str
    counts_as_foreign: bool
    paid_on: date
    amount: str
    currency: str
    purpose: str

    @classmethod
    def of(cls, found: NumberedPayment, party: str, *, counts_as_foreign: bool) -> PaymentOut:
        """The wire form."""
        payment = found.payment
        return cls(
            contract=payment.contract,
            number=found.number,
            party=party,
            counts_as_foreign=counts_as_foreign,
            paid_on=payment.paid_on,
            amount=str(payment.amount),
            currency=payment.currency,
            purpose=payment.purpose.value,
        )


class ShareOut(BaseModel):
    """A localisation share: percent rounded down, tenge to the tiyn; the threshold is compared exactly."""

    foreign_tenge: str
    total_tenge: str
    share_percent: str
    is_reached: bool

    @classmethod
    def of(cls, found: Share) -> ShareOut:
        """The wire form."""
        return cls(
            foreign_tenge=str(tenge(found.foreign_tenge)),
            total_tenge=str(tenge(found.total_tenge)),
            share_percent=str(percent(found.ratio)),
            is_reached=found.is_reached,
        )


class ForeignYearOut(BaseModel):
    """What went abroad in the calendar year before the application, percent rounded up; at most 20 % is kept."""

    year: int
    foreign_tenge: str
    total_tenge: str
    foreign_percent: str
    is_kept: bool

    @classmethod
    def of(cls, found: ForeignYear) -> ForeignYearOut:
        """The wire form."""
        return cls(
            year=found.year,
            foreign_tenge=str(tenge(found.foreign_tenge)),
            total_tenge=str(tenge(found.total_tenge)),
            foreign_percent=str(100 - percent(1 - found.ratio)),  # rounded up: the limit is a greatest one
            is_kept=found.is_kept,
        )


class LocalisationOut(BaseModel):
    """What a dossier's books say of a period."""

    starts_on: date
    ends_on: date
    share: ShareOut
    payments: int
    payments_outside: int
    past_year: ForeignYearOut | None

    @classmethod
    def of(cls, period: tuple[date, date], found: Figures) -> LocalisationOut:
        """The wire form."""
        return cls(
            starts_on=period[0],
            ends_on=period[1],
            share=ShareOut.of(found.share),
            payments=found.payments,
            payments_outside=found.payments_outside,
            past_year=None if found.foreign is None else ForeignYearOut.of(found.foreign),
        )


class CalculationOut(BaseModel):
    """A share that was calculated and kept. Who reads figures only sees neither person nor contact."""

    id: int
    starts_on: date
    ends_on: date
    share: ShareOut
    number: str
    responsible: str | None
    contact: str | None
    books_sha256: str
    calculated_at: datetime

    @classmethod
    def of(cls, found: Calculation, *, is_iin: bool, may_read: bool) -> CalculationOut:
        """The wire form; an IIN is masked."""
        return cls(
            id=found.id,
            starts_on=found.period.starts_on,
            ends_on=found.period.ends_on,
            share=ShareOut.of(found.share),
            number=mask_iin(found.number) if is_iin else found.number,
            responsible=found.responsible if may_read else None,
            contact=found.contact if may_read else None,
            books_sha256=found.books_digest,
            calculated_at=found.calculated_at,
        )


class CalculationsOut(BaseModel):
    """A dossier's calculations, the newest first."""

    items: list[CalculationOut]


class ReportOut(BaseModel):
    """An issued report; `sha256` of its data is its name, and what a file in somebody's hands is compared with."""

    sha256: str
    kind: str
    starts_on: date
    ends_on: date
    as_of: datetime
    issued_at: datetime

    @classmethod
    def of(cls, found: IssuedReport) -> ReportOut:
        """The wire form."""
        same = ("kind", "starts_on", "ends_on", "as_of", "issued_at")
        return cls(sha256=found.digest, **{name: getattr(found, name) for name in same})
