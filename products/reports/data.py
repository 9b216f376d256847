"""What a report says, as frozen values: figures with their coverage, and nothing of their layout. Pure.

The canonical JSON of such a value is what is hashed; every file carries it, so that a file can be verified alone.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Annotated, Final, Literal

from pydantic import Field, TypeAdapter, ValidationError

from products.indicator import ALMATY
from products.kpi import FutureError, Progress
from products.model import Stage

SCHEMA: Final = "kezek-report/1"
"""Name and version of the shape of the data."""

MAX_ROWS: Final = 2_000
"""Rows of one table of a report [count]: more is no report."""

FIGURES: Final = (
    "granted_s",
    "used_s",
    "useful_s",
    "wait_median_s",
    "wait_p95_s",
    "energy_j",
    "products",
)
"""Columns of the tables by sector and category: raw seconds, joules and counts."""


class BadReportError(ValueError):
    """The value is no report: a period upside down, a figure without coverage, too many rows, an unknown field."""


class TooManyRowsError(BadReportError):
    """A table is longer than a report takes."""

    def __init__(self, table: str, rows: int) -> None:
        super().__init__(
            f"table {table} has {rows} rows, at most {MAX_ROWS} are taken; report a shorter period"
        )
        self.table = table
        self.rows = rows


@dataclass(frozen=True, slots=True)
class Measure:
    """A figure and how much of what it should cover it covers.

    Args:
        value: raw units, None when there are no data. It is never 0 for want of data.
        known: units that were observed (device-seconds with telemetry, days that the ledger covers, ...).
        total: units there were; 0 when there was nothing to observe.

    Raises:
        BadReportError: a value without anything known, or more known than there was.
    """

    value: int | None
    known: int
    total: int

    def __post_init__(self) -> None:
        if not 0 <= self.known <= self.total:
            raise BadReportError(f"{self.known} of {self.total} known: coverage must lie between 0 and all")
        if self.value is not None and self.known == 0:
            raise BadReportError(f"a value of {self.value} that rests on nothing known; leave it empty")

    @property
    def coverage_percent(self) -> int | None:
        """Coverage in whole percent, rounded down; None when there was nothing to observe."""
        return self.known * 100 // self.total if self.total else None


@dataclass(frozen=True, slots=True)
class Group:
    """A row of the table by sector or category: how many organisations, and `FIGURES` in their order."""

    key: str
    organisations: int
    figures: tuple[Measure, ...]

    def __post_init__(self) -> None:
        if len(self.figures) != len(FIGURES):
            raise BadReportError(
                f"group {self.key} has {len(self.figures)} figures, {len(FIGURES)} are needed"
            )


@dataclass(frozen=True, slots=True)
class IndicatorYear:
    """Indicator 2 in a year, as `products.kpi.Indicator2` has it. Forecasts are None once the year has ended."""

    year: int
    target: int
    added: int
    ceased: int
    cumulative: int
    imported: int
    forecast_low: int | None
    forecast_high: int | None


@dataclass(frozen=True, slots=True)
class ContributionLine:
    """The platform's contribution to indicator 7 or 8 in a year."""

    indicator: Literal[7, 8]
    year: int
    target: int
    count: int


@dataclass(frozen=True, slots=True)
class RuleLine:
    """The evidence rule in force, printed with the figures."""

    version: str
    effective_from: date
    min_job_gpu_hours: int
    min_stage: Stage


@dataclass(frozen=True, slots=True)
class ProductLine:
    """A counted product: names by language, owner by language, and what it was made with."""

    slug: str
    name: dict[str, str]
    organisation: dict[str, str]
    sector: str
    counted_at: datetime
    rule: str
    jobs: int
    used_s: int


@dataclass(frozen=True, slots=True)
class InitiativeLine:
    """An initiative with its KPI. `done_percent` is rounded down; None without a measurement."""

    slug: str
    direction: str
    kpi: dict[str, str]
    deadline: date
    progress: Progress
    done_percent: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class KpiReport:
    """The monthly report, or the platform's contribution to the yearly one.

    Raises:
        BadReportError: a period that ends before it begins, a naive as-of time, too many rows.
        FutureError: the period begins after the as-of time.
    """

    kind: Literal["monthly", "yearly"]
    starts_on: date
    ends_on: date
    as_of: datetime
    is_simulated: bool
    startups: int
    universities: int
    sectors: tuple[Group, ...]
    categories: tuple[Group, ...]
    total: Group
    rule: RuleLine
    indicator: tuple[IndicatorYear, ...]
    contributions: tuple[ContributionLine, ...]
    products: tuple[ProductLine, ...]
    initiatives: tuple[InitiativeLine, ...]

    def __post_init__(self) -> None:
        _check_period(self.starts_on, self.ends_on, self.as_of)
        for name in ("sectors", "categories", "indicator", "contributions", "products", "initiatives"):
            rows = len(getattr(self, name))
            if rows > MAX_ROWS:
                raise TooManyRowsError(name, rows)

    @property
    def is_open(self) -> bool:
        """Whether the period has not ended at the as-of time."""
        return self.as_of.astimezone(ALMATY).date() <= self.ends_on


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalisationForm:
    """The report in the form of the annex to Order No 604. It holds what the applicant wrote: keep it theirs.

    Args:
        kind: always "localisation".
        organisation: as it is to stand in the form.
        number: BIN or IIN, as it is to stand in the form.
        product: name of the software.
        starts_on: first day of the reporting period.
        ends_on: last day of it.
        responsible: person responsible.
        contact: telephone or e-mail.
        foreign_tenge: sum of foreign payments, to the tiyn.
        total_tenge: sum of all payments, to the tiyn, above 0.
        share_percent: rounded down to two places.
        is_reached: whether the exact share reaches the threshold.
        as_of: when it was calculated.

    Raises:
        BadReportError: a period that ends before it begins, or sums that give no share.
        FutureError: the period begins after the as-of time.
    """

    kind: Literal["localisation"] = "localisation"
    organisation: str
    number: str
    product: str
    starts_on: date
    ends_on: date
    responsible: str
    contact: str
    foreign_tenge: Decimal
    total_tenge: Decimal
    share_percent: Decimal
    is_reached: bool
    as_of: datetime

    def __post_init__(self) -> None:
        _check_period(self.starts_on, self.ends_on, self.as_of)
        if not 0 <= self.foreign_tenge <= self.total_tenge or self.total_tenge == 0:
            raise BadReportError(
                f"{self.foreign_tenge} of {self.total_tenge} tenge paid abroad: the total must be above 0 and no less"
            )


Report = KpiReport | LocalisationForm

_ADAPTER: Final[TypeAdapter[Report]] = TypeAdapter(
    Annotated[KpiReport | LocalisationForm, Field(discriminator="kind")]
)


def to_document(report: Report) -> dict[str, object]:
    """The report as JSON values."""
    return dict(_ADAPTER.dump_python(report, mode="json"))


def from_document(document: object) -> Report:
    """The report that JSON values describe.

    Raises:
        BadReportError: they describe none.
        FutureError: the period begins after the as-of time.
    """
    try:
        return _ADAPTER.validate_json(json.dumps(document))
    except ValidationError as error:
        raise BadReportError(
            f"the data are no report: {error.errors(include_input=False)[0]['msg']}"
        ) from error


def canonical(document: object) -> bytes:
    """JSON with sorted keys and no spaces: one value, one text."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def digest(report: Report) -> str:
    """SHA-256 (hex) of the report's canonical JSON: equal for every format and language."""
    return hashlib.sha256(canonical({"schema": SCHEMA, "data": to_document(report)})).hexdigest()


def month_period(year: int, month: int) -> tuple[date, date]:
    """First and last day of a month."""
    start = date(year, month, 1)
    return start, date(year + month // 12, month % 12 + 1, 1) - timedelta(days=1)


def _check_period(starts_on: date, ends_on: date, as_of: datetime) -> None:
    if as_of.tzinfo is None:
        raise BadReportError(f"the as-of time {as_of.isoformat()} has no time zone; give it in UTC")
    if ends_on < starts_on:
        raise BadReportError(f"the period ends on {ends_on}, before it begins on {starts_on}; swap the dates")
    if starts_on > as_of.astimezone(ALMATY).date():
        raise FutureError(f"the period from {starts_on}", as_of)
