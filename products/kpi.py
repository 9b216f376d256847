"""Target indicators 2, 7 and 8 with what each figure counted, and the "icebreaker" initiatives. Pure.

Source: AI Concept 2024-2029, Government decree No 592 of 24 July 2024, table of target indicators.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from enum import StrEnum
from fractions import Fraction
from typing import Final

from products.evidence import Verdict
from products.indicator import ALMATY, TARGETS, YearWithoutTargetError
from products.model import Direction, Stage
from quota.model import Ground
from tenants.model import Category, Sector

IMPORT_YEARS: Final = (2025, 2026)
"""Years whose products may be imported with a decision and without job evidence."""

REAL_SECTORS: Final = frozenset(Sector) - {Sector.OTHER}
"""Sectors counted as real ones in indicator 8; a product of `other` is not counted."""

_ONE: Final = 1


class FutureError(ValueError):
    """Figures were asked for a time that has not come."""

    def __init__(self, what: str, as_of: datetime) -> None:
        super().__init__(
            f"{what} lies after {as_of.astimezone(ALMATY).isoformat(timespec='seconds')}, up to which figures exist; "
            "ask for a time that has passed"
        )


class ImportYearError(ValueError):
    """A product was imported for a year in which the platform itself keeps the evidence."""

    def __init__(self, name: str, counted_on: date) -> None:
        first, last = IMPORT_YEARS
        super().__init__(
            f"{name} is imported for {counted_on.year}; only products of {first} and {last} are imported, a later one "
            "is registered with its jobs"
        )
        self.name = name
        self.counted_on = counted_on


@dataclass(frozen=True, slots=True)
class Imported:
    """A product from before the platform kept evidence: *imported, no job evidence*.

    Raises:
        ImportYearError: the year is not one of `IMPORT_YEARS`.
    """

    slug: str
    counted_on: date
    decision: Ground
    imported_at: datetime

    def __post_init__(self) -> None:
        if self.counted_on.year not in IMPORT_YEARS:
            raise ImportYearError(self.slug, self.counted_on)


@dataclass(frozen=True, slots=True)
class CountedProduct:
    """A line of what a figure counted; `counted_at` decides the year (Asia/Almaty)."""

    slug: str
    counted_at: datetime
    rule: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Indicator2:
    """Indicator 2 of a year, both readings.

    Over all years the sum of `added` less the sum of `ceased` is `cumulative`.

    Args:
        year: calendar year in Asia/Almaty.
        target: planned for the year.
        as_of: the figures' instant; for a year that has ended they stand at the year's end, corrected by nothing.
        until: end of what is counted: `as_of`, or the end of the year when that has passed (exclusive).
        added: products whose `counted_at` lies in the year.
        ceased: products that ceased to count in the year, less those that resumed.
        cumulative: products that count at `until`.
        imported_added: imported for the year, apart.
        imported_cumulative: imported up to the year, apart.
        forecast_low: what counts at the year's end if nothing happens; None when the year has ended.
        forecast_high: that and every product that lacks one condition only; None when the year has ended.
        counted: the products of `cumulative`, oldest first.
    """

    year: int
    target: int
    as_of: datetime
    until: datetime
    added: int
    ceased: int
    cumulative: int
    imported_added: int
    imported_cumulative: int
    forecast_low: int | None
    forecast_high: int | None
    counted: tuple[CountedProduct, ...]

    @property
    def added_ratio(self) -> Fraction:
        """Plan/fact by the reading "added in the year": added / target."""
        return Fraction(self.added, self.target)

    @property
    def cumulative_ratio(self) -> Fraction:
        """Plan/fact by the reading "in all": cumulative / target."""
        return Fraction(self.cumulative, self.target)


def year_bounds(year: int) -> tuple[datetime, datetime]:
    """First instant of a calendar year in Almaty, and of the next."""
    return datetime(year, 1, 1, tzinfo=ALMATY), datetime(year + 1, 1, 1, tzinfo=ALMATY)


def indicator_2(
    verdicts: Sequence[Verdict], imported: Sequence[Imported], year: int, as_of: datetime
) -> Indicator2:
    """Indicator 2 of a year as of an instant. O(verdicts + imported).

    Args:
        verdicts: every product judged at `as_of`.
        imported: products without job evidence; those imported after `as_of` do not show.
        year: a year with a target that has begun.
        as_of: aware instant.

    Raises:
        YearWithoutTargetError: the Concept sets no target for the year.
        FutureError: the year has not begun at `as_of`.
    """
    if year not in TARGETS:
        raise YearWithoutTargetError(year)
    starts_at, ends_at = year_bounds(year)
    if as_of < starts_at:
        raise FutureError(f"year {year}", as_of)
    has_ended = as_of >= ends_at
    added = ceased = 0
    counted: list[CountedProduct] = []
    for verdict in verdicts:
        before, after = _counts(verdict, starts_at), _counts(verdict, ends_at)
        is_new = verdict.counted_at is not None and starts_at <= verdict.counted_at < ends_at
        added += is_new
        ceased += before + is_new - after
        if after and verdict.counted_at is not None:
            counted.append(CountedProduct(verdict.history.slug, verdict.counted_at, verdict.spans[0].rule))
    known = [item for item in imported if item.imported_at <= as_of and item.counted_on.year <= year]
    known = [item for item in known if item.counted_on <= as_of.astimezone(ALMATY).date()]
    near = sum(
        sum(not held.holds for held in verdict.conditions) == _ONE and not verdict.counts
        for verdict in verdicts
    )
    return Indicator2(
        year=year,
        target=TARGETS[year],
        as_of=as_of,
        until=ends_at if has_ended else as_of,
        added=added,
        ceased=ceased,
        cumulative=len(counted),
        imported_added=sum(item.counted_on.year == year for item in known),
        imported_cumulative=len(known),
        forecast_low=None if has_ended else len(counted),
        forecast_high=None if has_ended else len(counted) + near,
        counted=tuple(sorted(counted, key=lambda item: (item.counted_at, item.slug))),
    )


@dataclass(frozen=True, slots=True)
class Contribution:
    """The platform's contribution to a national indicator, never its fulfilment.

    `is_ambiguous`: the Concept does not say what its series counts (7: a number or a percentage); print that.
    """

    indicator: int
    year: int
    target: int
    count: int
    counted: tuple[str, ...]
    is_ambiguous: bool


def contribution_7(
    served: Iterable[tuple[str, Category, datetime]], year: int, as_of: datetime
) -> Contribution:
    """Startups that ran a successful job on the platform in the year.

    Args:
        served: (organisation, category, end of a successful job), any number of each.
        year: a year with a target.
        as_of: aware instant, included.

    Raises:
        YearWithoutTargetError: no target for the year.
        FutureError: the year has not begun at `as_of`.
    """
    starts_at, ends_at = _begun(year, as_of)
    names = {
        name
        for name, category, at in served
        if category is Category.STARTUP and starts_at <= at < ends_at and at <= as_of
    }
    return Contribution(7, year, TARGETS[year], len(names), tuple(sorted(names)), is_ambiguous=True)


def contribution_8(verdicts: Iterable[tuple[Verdict, Stage]], year: int, as_of: datetime) -> Contribution:
    """Counted products of a real sector, in production, that came through an acceleration programme in the year.

    Args:
        verdicts: every product judged at `as_of`, with its stage then.
        year: a year with a target; `counted_at` decides a product's year.
        as_of: aware instant.

    Raises:
        YearWithoutTargetError: no target for the year.
        FutureError: the year has not begun at `as_of`.
    """
    starts_at, ends_at = _begun(year, as_of)
    names = sorted(
        verdict.history.slug
        for verdict, stage in verdicts
        if _counts(verdict, ends_at)
        and stage is Stage.PRODUCTION
        and verdict.history.programme is not None
        and verdict.history.sector in REAL_SECTORS
        and verdict.counted_at is not None
        and starts_at <= verdict.counted_at < ends_at
    )
    return Contribution(8, year, TARGETS[year], len(names), tuple(names), is_ambiguous=False)


class Progress(StrEnum):
    """Where an initiative stands."""

    NO_DATA = "no-data"
    UNDER_WAY = "under-way"
    REACHED = "reached"
    REACHED_LATE = "reached-late"
    MISSED = "missed"


@dataclass(frozen=True, slots=True)
class Measurement:
    """The KPI's value on a day, with where it was read."""

    on: date
    value: int
    source: str


class BadInitiativeError(ValueError):
    """An initiative's KPI cannot be tracked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Initiative:
    """A national "icebreaker" project with its own KPI and deadline.

    Args:
        slug: short name.
        direction: of the strategy.
        kpi: what is measured, in the initiative's own words (kk, ru, en).
        unit: code of its unit.
        baseline: value at the start.
        target: value to reach; below `baseline` when less is better.
        deadline: last day to reach it.
        measurements: in any order.

    Raises:
        BadInitiativeError: target and baseline are equal.
    """

    slug: str
    direction: Direction
    kpi: tuple[tuple[str, str], ...]
    unit: str
    baseline: int
    target: int
    deadline: date
    measurements: tuple[Measurement, ...] = ()

    def __post_init__(self) -> None:
        if self.baseline == self.target:
            raise BadInitiativeError(
                f"initiative {self.slug}: target and baseline are both {self.target}; give the value it starts from"
            )


@dataclass(frozen=True, slots=True)
class Tracking:
    """An initiative on a day. `ratio` is the way gone from baseline to target (may leave 0..1), None without data."""

    initiative: Initiative
    progress: Progress
    latest: Measurement | None
    ratio: Fraction | None
    days_left: int


def track(initiative: Initiative, on: date) -> Tracking:
    """Where an initiative stands on a day, by the measurements up to it. O(m log m)."""
    known = sorted(
        (item for item in initiative.measurements if item.on <= on), key=lambda item: (item.on, item.value)
    )
    latest = known[-1] if known else None
    span = initiative.target - initiative.baseline
    ratio = None if latest is None else Fraction(latest.value - initiative.baseline, span)
    reached_on = next(
        (item.on for item in known if Fraction(item.value - initiative.baseline, span) >= 1), None
    )
    if reached_on is not None:
        progress = Progress.REACHED if reached_on <= initiative.deadline else Progress.REACHED_LATE
    elif on > initiative.deadline:
        progress = Progress.MISSED
    else:
        progress = Progress.NO_DATA if latest is None else Progress.UNDER_WAY
    return Tracking(initiative, progress, latest, ratio, (initiative.deadline - on).days)


def _begun(year: int, as_of: datetime) -> tuple[datetime, datetime]:
    if year not in TARGETS:
        raise YearWithoutTargetError(year)
    starts_at, ends_at = year_bounds(year)
    if as_of < starts_at:
        raise FutureError(f"year {year}", as_of)
    return starts_at, ends_at


def _counts(verdict: Verdict, before: datetime) -> bool:
    """Whether the product counted just before an instant."""
    return any(span.since < before and (span.until is None or span.until >= before) for span in verdict.spans)
