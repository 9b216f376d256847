"""What was observed of jobs, put into a report: useful GPU-seconds and energy, with the coverage of both.

The books (granted, used) are summed by `products.gather`; telemetry is read here. An attempt counts whole, in the
period in which it ended; without telemetry the figure stays empty, with its coverage.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import date, datetime, time, timedelta
from typing import Final, Literal

from sqlalchemy import true
from sqlalchemy.orm import Session

from metrics.service import Dimension, Use, use_by
from products.gather import gather
from products.indicator import ALMATY
from products.reports.data import FIGURES, Group, KpiReport, Measure

_USEFUL: Final = FIGURES.index("useful_s")
_ENERGY: Final = FIGURES.index("energy_j")


def gather_observed(
    session: Session, kind: Literal["monthly", "yearly"], period: tuple[date, date], as_of: datetime
) -> KpiReport:
    """The report of a period as of an instant, with telemetry.

    Args:
        session: an open read; a snapshot, so that all figures are of one moment.
        kind: monthly or yearly.
        period: first and last day, in Almaty.
        as_of: aware instant; what happened after it is not read.

    Raises:
        FutureError: the period begins after `as_of`.
        BadReportError: the period is upside down.
    """
    return observed(session, gather(session, kind, period, as_of))


def observed(session: Session, report: KpiReport) -> KpiReport:
    """The report with what was observed of the attempts that ended in its period, up to its as-of time."""
    since = datetime.combine(report.starts_on, time(), ALMATY)
    # The books hold what happened at the as-of time itself, so telemetry does too: its periods end before `until`.
    until = min(
        datetime.combine(report.ends_on + timedelta(days=1), time(), ALMATY),
        report.as_of + timedelta(microseconds=1),
    )
    by_sector = use_by(session, Dimension.SECTOR, since, until, visible=true())
    by_category = use_by(session, Dimension.CATEGORY, since, until, visible=true())
    return replace(
        report,
        sectors=_filled(report.sectors, by_sector),
        categories=_filled(report.categories, by_category),
        total=_with(report.total, _measures(by_sector)),
    )


def _filled(groups: Iterable[Group], uses: Iterable[Use]) -> tuple[Group, ...]:
    known: Mapping[str, Use] = {use.name: use for use in uses}
    return tuple(
        _with(group, _measures([known[group.key]] if group.key in known else [])) for group in groups
    )


def _with(group: Group, measures: tuple[Measure, Measure]) -> Group:
    figures = list(group.figures)
    figures[_USEFUL], figures[_ENERGY] = measures
    return replace(group, figures=tuple(figures))


def _measures(uses: Iterable[Use]) -> tuple[Measure, Measure]:
    """Useful GPU-seconds and joules of groups together; coverage is observed of held device-seconds.

    Sums are of whole seconds and joules, so that groups add up to their total.
    """
    useful_s: int | None = None
    energy_j: int | None = None
    held_s = useful_known_s = energy_known_s = 0
    for use in uses:
        summary = use.summary
        held = math.ceil(summary.held_s)
        held_s += held
        if summary.useful_s is not None:
            useful_s = (useful_s or 0) + round(summary.useful_s)
            useful_known_s += _known_s(summary.coverage_ratio, held)
        if summary.energy_j is not None:
            energy_j = (energy_j or 0) + round(summary.energy_j)
            energy_known_s += _known_s(summary.energy_coverage_ratio, held)
    return Measure(useful_s, useful_known_s, held_s), Measure(energy_j, energy_known_s, held_s)


def _known_s(coverage_ratio: float | None, held_s: int) -> int:
    """Whole device-seconds observed; at least one where anything was."""
    return min(held_s, max(1, int((coverage_ratio or 0) * held_s)))
