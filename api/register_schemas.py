"""What the API reads about dossiers, localisation shares and reports. Unknown fields are refused."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, Field, StringConstraints

from api.schemas import FIRST_YEAR, LAST_YEAR, Body, InstantIn, Line, Names, PageQuery, Sha256, Slug
from products.dossier import DocumentCode
from products.localisation import TENGE, Purpose
from products.registers import Kind
from products.registers_standing import Register

MAX_ENTRIES: Final = 1_000
"""Rows of each list of one request [count]: a year of one product's payments, and within the limit of bodies."""
MAX_LEVEL: Final = 7
"""Highest evaluation assurance level. Source: ISO/IEC 15408-3."""


def _in_calendar(on: date) -> date:
    if not FIRST_YEAR <= on.year <= LAST_YEAR:
        raise ValueError(f"the year must be {FIRST_YEAR} to {LAST_YEAR}")
    return on


Day = Annotated[date, AfterValidator(_in_calendar)]
Key = Annotated[
    str, StringConstraints(pattern=r"^[^\x00-\x1f\x7f]*[^\x00-\x20\x7f][^\x00-\x1f\x7f]*$", max_length=100)
]
Money = Annotated[
    str, StringConstraints(pattern=r"^-?[0-9]{1,15}(\.[0-9]{1,2})?$"), Field(description="As 1234.50.")
]
RateText = Annotated[
    str, StringConstraints(pattern=r"^-?[0-9]{1,11}(\.[0-9]{1,6})?$"), Field(description="As 512.340000.")
]
Currency = Annotated[str, StringConstraints(pattern=r"^[A-Z]{3}$")]
SharePercent = Annotated[str, StringConstraints(pattern=r"^(100(\.0{1,2})?|[0-9]{1,2}(\.[0-9]{1,2})?)$")]


class DossierIn(Body):
    """A dossier to be opened: one product, for the registers of the state."""

    slug: Slug
    project: Slug
    kind: Kind = Kind.SOFTWARE
    name: Names


class DocumentIn(Body):
    """A document of a dossier."""

    code: DocumentCode
    number: Key
    issued_on: Day
    expires_on: Day | None = Field(default=None, description="Last day it is valid; null: without end.")
    level: int | None = Field(
        default=None, ge=1, le=MAX_LEVEL, description="Assurance level, of an assurance certificate only."
    )
    share_percent: SharePercent | None = Field(
        default=None, description="Share in percent, of an industrial certificate only."
    )
    sha256: Sha256 | None = Field(default=None, description="Digest of the document's file.")


class PartyIn(Body):
    """Who is paid, by the applicant's own key."""

    id: Key
    is_foreign: bool
    controlled_by: Key | None = None
    acts_for: Key | None = None


class ContractIn(Body):
    """A contract for the product."""

    number: Key
    party: Key


class PaymentIn(Body):
    """A payment under a contract; contract and number name it."""

    contract: Key
    number: Key
    paid_on: Day
    amount: Money
    currency: Currency = TENGE
    purpose: Purpose = Purpose.DEVELOPMENT


class RateIn(Body):
    """The official rate of a currency on a day."""

    currency: Currency
    on: Day
    tenge: RateText = Field(description="Tenge for one unit of the currency.")


class BooksIn(Body):
    """Entries of a dossier's books, taken all or none. Payments must lie in the stated period."""

    starts_on: Day
    ends_on: Day
    parties: list[PartyIn] = Field(default=[], max_length=MAX_ENTRIES)
    contracts: list[ContractIn] = Field(default=[], max_length=MAX_ENTRIES)
    payments: list[PaymentIn] = Field(default=[], max_length=MAX_ENTRIES)
    rates: list[RateIn] = Field(default=[], max_length=MAX_ENTRIES)
    is_correction: bool = Field(default=False, description="What stands under the same key is replaced.")


class CalculationIn(Body):
    """A localisation share to be calculated and kept."""

    starts_on: Day
    ends_on: Day
    responsible: Line = Field(description="Person responsible, as the form is to name it.")
    contact: Line = Field(description="Telephone or e-mail.")
    iin: str | None = Field(
        default=None,
        max_length=20,
        pattern=r"^[0-9]*$",
        description="IIN of an applicant without BIN; else the organisation's BIN stands in the form.",
    )


class ShareQuery(Body):
    """Which period's share."""

    starts_on: Day
    ends_on: Day
    applied_on: Day | None = Field(
        default=None,
        description="Day of the application: tells the rule for the calendar year before it too.",
    )


class PaymentQuery(Body):
    """Which payment."""

    contract: Key
    number: Key


class FormQuery(Body):
    """Which file of the form."""

    format: Literal["pdf", "docx", "xlsx", "json"] = "pdf"
    language: Literal["kk", "ru", "en"] = "kk"


class DayQuery(Body):
    """As of which day."""

    on: Day | None = Field(default=None, description="Absent: today in Almaty.")


class EntryIn(Body):
    """A product's entry in a register."""

    state_register: Register
    entered_on: Day


class LeavingIn(Body):
    """A product's leaving of a register; `left_on` is the first day it is there no more."""

    state_register: Register
    left_on: Day


class CheckIn(Body):
    """The quarterly look at an entry of the register of Kazakhstani producers."""

    checked_on: Day
    is_kept: bool = Field(description="Whether the entry was found right.")


class ReportIn(Body):
    """A report to be issued."""

    kind: Literal["monthly", "yearly"]
    period: Annotated[str, StringConstraints(pattern=r"^[0-9]{4}(-[0-9]{2})?$")] = Field(
        description="YYYY-MM of a monthly, YYYY of a yearly report."
    )
    as_of: InstantIn | None = Field(default=None, description="Instant of the figures; absent: now.")


class ReportsQuery(PageQuery):
    """Which page of the issued reports."""


class OpenDataQuery(Body):
    """How the open data are written."""

    format: Literal["json", "csv"] = "json"


def amount(text: str) -> Decimal:
    """The exact value of a `Money` or `RateText`."""
    return Decimal(text)
