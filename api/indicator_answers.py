"""What the API answers about indicators and initiatives: wire types and how they are made of the room's values."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, datetime
from uuid import UUID

from pydantic import BaseModel

from api.answers import NamesOut
from products.kpi import Imported, Indicator2, Progress, Tracking
from products.model import Direction, Stage
from products.rules import SECONDS_PER_HOUR, EvidenceRule
from quota.model import GroundKind


class EvidenceRuleOut(BaseModel):
    """The version of the evidence rule in force at the figures' instant."""

    version: str
    effective_from: date
    min_job_gpu_hours: int
    min_stage: Stage
    needs_ai: bool
    reverify_days: int

    @classmethod
    def of(cls, rule: EvidenceRule) -> EvidenceRuleOut:
        """The wire form."""
        return cls(
            version=rule.version,
            effective_from=rule.effective_from,
            min_job_gpu_hours=rule.min_job_gpu_seconds // SECONDS_PER_HOUR,
            min_stage=rule.min_stage,
            needs_ai=rule.needs_ai,
            reverify_days=rule.reverify_days,
        )


class CoverageOut(BaseModel):
    """What the figures rest on: products judged, and since when the platform keeps records (null: it has none)."""

    products_judged: int
    records_since: datetime | None


class IndicatorYearOut(BaseModel):
    """One year: the target beside both readings of the fact; null before the year begins.

    `added` and `cumulative` count products with evidence, `imported_*` those imported with a decision, apart. The
    forecast of the year's end is null once the year has ended.
    """

    year: int
    target: int
    added: int | None
    ceased: int | None
    cumulative: int | None
    added_percent: int | None
    cumulative_percent: int | None
    imported_added: int | None
    imported_cumulative: int | None
    forecast_low: int | None
    forecast_high: int | None

    @classmethod
    def of(cls, found: Indicator2) -> IndicatorYearOut:
        """The wire form of a year that has begun."""
        plain = ("year", "target", "added", "ceased", "cumulative", "imported_added", "imported_cumulative")
        forecast = ("forecast_low", "forecast_high")
        return cls(
            added_percent=round(found.added_ratio * 100),
            cumulative_percent=round(found.cumulative_ratio * 100),
            **{name: getattr(found, name) for name in (*plain, *forecast)},
        )

    @classmethod
    def not_begun(cls, year: int, target: int) -> IndicatorYearOut:
        """The wire form of a year that has not begun."""
        unknown = dict.fromkeys(cls.model_fields.keys() - {"year", "target"})
        return cls.model_validate({"year": year, "target": target, **unknown})


class CountedOut(BaseModel):
    """A product that counts since `held_at`; `slug` is null where the caller may not see the product."""

    product_id: UUID
    slug: str | None
    held_at: datetime
    year: int
    rule: str


class ImportDecisionOut(BaseModel):
    """The decision that an imported product rests on."""

    kind: GroundKind
    body: str
    number: str
    date: date


class ImportedOut(BaseModel):
    """A product imported with its decision: no job evidence."""

    slug: str
    counted_on: date
    decision: ImportDecisionOut
    imported_at: datetime

    @classmethod
    def of(cls, found: Imported) -> ImportedOut:
        """The wire form."""
        act = found.decision
        return cls(
            slug=found.slug,
            counted_on=found.counted_on,
            decision=ImportDecisionOut(kind=act.kind, body=act.body, number=act.number, date=act.date),
            imported_at=found.imported_at,
        )


class ImportedProductsOut(BaseModel):
    """Every product imported with its decision."""

    items: list[ImportedOut]


class IndicatorOut(BaseModel):
    """Target indicator 2, with what it counted."""

    indicator: int
    unit: str
    definition: str
    ambiguity: str
    source: str
    as_of: datetime
    is_simulated: bool
    rule: EvidenceRuleOut | None
    coverage: CoverageOut
    years: list[IndicatorYearOut]
    counted: list[CountedOut]
    imported: list[ImportedOut]
    unverified: int
    without_evidence: int
    reviews_overdue: int


class ContributionOut(BaseModel):
    """The platform's contribution to a national indicator, never its fulfilment.

    `counted` are the slugs of what was counted, null for a caller who does not see the whole platform.
    """

    indicator: int
    unit: str
    definition: str
    ambiguity: str | None
    source: str
    as_of: datetime
    is_simulated: bool
    year: int
    national_target: int
    contribution: int
    counted: list[str] | None


class InitiativeOut(BaseModel):
    """An "icebreaker" initiative and where it stands; figures are null where nothing was measured."""

    slug: str
    direction: Direction
    kpi: NamesOut
    unit: str
    baseline: int
    target: int
    deadline: date
    progress: Progress
    value: int | None
    measured_on: date | None
    source: str | None
    done_percent: int | None
    days_left: int

    @classmethod
    def of(cls, found: Tracking) -> InitiativeOut:
        """The wire form."""
        made, latest, ratio = found.initiative, found.latest, found.ratio
        names: Mapping[str, str] = dict(made.kpi)
        plain = ("slug", "direction", "unit", "baseline", "target", "deadline")
        return cls(
            kpi=NamesOut.of(names),
            progress=found.progress,
            value=None if latest is None else latest.value,
            measured_on=None if latest is None else latest.on,
            source=None if latest is None else latest.source,
            done_percent=None if ratio is None else ratio.numerator * 100 // ratio.denominator,
            days_left=found.days_left,
            **{name: getattr(made, name) for name in plain},
        )


class InitiativesOut(BaseModel):
    """Every initiative, as of an instant."""

    as_of: datetime
    items: list[InitiativeOut]
