"""The figures of a report from the database: a frozen value as of an instant, over the whole platform."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from typing import Any, Final, Literal

from sqlalchemy import ColumnElement, Select, case, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from products import history
from products.evidence import Described, Trained, Verdict
from products.evidence_tables import IssuedReportRow
from products.indicator import ALMATY, TARGETS
from products.kpi import Contribution, contribution_7, contribution_8, indicator_2, track
from products.model import Stage
from products.reports.data import (
    ContributionLine,
    Group,
    IndicatorYear,
    InitiativeLine,
    KpiReport,
    Measure,
    ProductLine,
    RuleLine,
    digest,
)
from products.rules import SECONDS_PER_HOUR, rule_in_force
from products.tables import ProductRow
from quota.model import EntryKind
from quota.tables import GrantRow, LedgerEntryRow
from scheduler.model import JobState
from scheduler.tables import JobRow, NodeRow
from store import journal
from store.tables import JournalRow
from tenants.model import Category, Sector
from tenants.tables import OrganisationRow, ProjectRow

_ALL: Final = "total"
_MEDIAN: Final = 0.5
_P95: Final = 0.95
_DIMENSIONS: Final[Mapping[str, ColumnElement[Any] | None]] = {
    "sector": OrganisationRow.sector.expression,
    "category": OrganisationRow.category.expression,
    _ALL: None,
}


@dataclass(frozen=True, slots=True)
class _Span:
    """The part of a period that has passed: [starts_at, ends_at) and no later than `as_of`."""

    starts_at: datetime
    ends_at: datetime
    as_of: datetime

    def holds(self, column: Any) -> ColumnElement[bool]:  # noqa: ANN401 - columns of any nullability
        inside: ColumnElement[bool] = (
            (column >= self.starts_at) & (column < self.ends_at) & (column <= self.as_of)
        )
        return inside


def gather(
    session: Session, kind: Literal["monthly", "yearly"], period: tuple[date, date], as_of: datetime
) -> KpiReport:
    """The report of a period as of an instant. Reads every product, and sums in the database.

    Args:
        session: an open read; a snapshot, so that all figures are of one moment.
        kind: monthly or yearly.
        period: first and last day, in Almaty.
        as_of: aware instant; what happened after it is not read.

    Raises:
        FutureError: the period begins after `as_of`.
        BadReportError: the period is upside down.
    """
    starts_on, ends_on = period
    span = _Span(_midnight(starts_on), _midnight(ends_on + timedelta(days=1)), as_of)
    judged = history.verdicts(session, as_of)
    counting = [verdict for verdict in judged if verdict.counts]
    groups = {name: _groups(session, name, span, counting) for name in _DIMENSIONS}
    year = ends_on.year
    served = _served(session, span)
    rule = rule_in_force(history.published_rules(), as_of) or history.published_rules()[0]
    others = history.imported(session)
    years = [each for each in sorted(TARGETS) if each <= min(year, as_of.astimezone(ALMATY).year)]
    figures = [indicator_2(judged, others, each, as_of) for each in years]
    given: tuple[Contribution, ...] = ()
    if year in years:
        given = (
            contribution_7(served, year, as_of),
            contribution_8([(verdict, _stage(verdict)) for verdict in judged], year, as_of),
        )
    return KpiReport(
        kind=kind,
        starts_on=starts_on,
        ends_on=ends_on,
        as_of=as_of,
        is_simulated=is_simulated(session),
        startups=len({name for name, category, _ in served if category is Category.STARTUP}),
        universities=len({name for name, category, _ in served if category is Category.UNIVERSITY}),
        sectors=tuple(
            groups["sector"][sector.value] for sector in Sector if sector.value in groups["sector"]
        ),
        categories=tuple(
            groups["category"][each.value] for each in Category if each.value in groups["category"]
        ),
        total=groups[_ALL][_ALL],
        rule=RuleLine(
            rule.version,
            rule.effective_from,
            rule.min_job_gpu_seconds // SECONDS_PER_HOUR,
            rule.min_stage,
        ),
        indicator=tuple(
            IndicatorYear(
                each.year,
                each.target,
                each.added,
                each.ceased,
                each.cumulative,
                each.imported_cumulative,
                each.forecast_low,
                each.forecast_high,
            )
            for each in figures
        ),
        contributions=tuple(
            ContributionLine(7 if each.indicator == 7 else 8, each.year, each.target, each.count)  # noqa: PLR2004 - its number
            for each in given
        ),
        products=_products(session, counting),
        initiatives=_initiatives(session, as_of),
    )


def contributions(session: Session, year: int, as_of: datetime) -> tuple[Contribution, Contribution]:
    """The platform's contribution to the national indicators 7 and 8 in a year.

    Raises:
        YearWithoutTargetError: no target for the year.
        FutureError: the year has not begun at `as_of`.
    """
    span = _Span(_midnight(date(year, 1, 1)), _midnight(date(year + 1, 1, 1)), as_of)
    judged = [(verdict, _stage(verdict)) for verdict in history.verdicts(session, as_of)]
    return contribution_7(_served(session, span), year, as_of), contribution_8(judged, year, as_of)


def is_simulated(session: Session) -> bool:
    """Whether a node of the platform is simulated, so that its figures are."""
    return bool(session.scalar(select(func.bool_or(NodeRow.is_simulated))))


def issue(session: Session, report: KpiReport, *, actor: str, at: datetime) -> str:
    """Remember that a report was issued, by its digest; a report issued before stays as it was. Return the digest."""
    made = digest(report)
    row = {
        "digest": made,
        "kind": report.kind,
        "starts_on": report.starts_on,
        "ends_on": report.ends_on,
        "as_of": report.as_of,
        "issued_at": at,
    }
    added = session.execute(
        insert(IssuedReportRow).values(row).on_conflict_do_nothing().returning(IssuedReportRow.digest)
    ).one_or_none()
    if added is not None:
        data: dict[str, object] = {
            "kind": report.kind,
            "starts_on": report.starts_on.isoformat(),
            "ends_on": report.ends_on.isoformat(),
            "as_of": report.as_of.isoformat(),
        }
        journal.append(session, "report.issued", f"report:{made}", actor=actor, at=at, data=data)
    return made


def is_issued(session: Session, found: str) -> bool:
    """Whether a report with this digest was issued."""
    return session.get(IssuedReportRow, found) is not None


def _groups(session: Session, dimension: str, span: _Span, counting: list[Verdict]) -> dict[str, Group]:
    grants = _of_grants(func.sum(GrantRow.granted_s), dimension).where(span.holds(GrantRow.created_at))
    granted = _sums(session, dimension, grants)
    charged = case(
        (LedgerEntryRow.kind == EntryKind.POSTED.value, LedgerEntryRow.amount_s),
        (LedgerEntryRow.kind == EntryKind.REVERSED.value, -LedgerEntryRow.amount_s),
        else_=0,
    )
    used = _sums(
        session,
        dimension,
        _of_grants(func.sum(charged), dimension)
        .join(LedgerEntryRow, LedgerEntryRow.grant_id == GrantRow.id)
        .where(span.holds(LedgerEntryRow.at)),
    )
    wait_s = func.floor(func.extract("epoch", JobRow.first_started_at - JobRow.submitted_at))
    started = span.holds(JobRow.first_started_at)
    waits = {
        part: _sums(
            session,
            dimension,
            _of_jobs(func.percentile_disc(part).within_group(wait_s), dimension).where(started),
        )
        for part in (_MEDIAN, _P95)
    }
    starts = _sums(session, dimension, _of_jobs(func.count(), dimension).where(started))
    organisations = _sums(
        session,
        dimension,
        _of_jobs(func.count(ProjectRow.organisation_id.distinct()), dimension).where(
            JobRow.state == JobState.COMPLETED.value, span.holds(JobRow.finished_at)
        ),
    )
    days = _ledger_days(session, span)
    keys = {_ALL} if dimension == _ALL else set(Sector if dimension == "sector" else Category)
    found = {}
    for key in (str(key) for key in keys):
        used_s = used.get(key, 0)
        products = sum(
            dimension == _ALL or key == getattr(verdict.history, dimension) for verdict in counting
        )
        wait = tuple(
            Measure(waits[part].get(key), starts.get(key, 0), starts.get(key, 0)) for part in (_MEDIAN, _P95)
        )
        telemetry = Measure(None, 0, used_s)
        found[key] = Group(
            key,
            organisations.get(key, 0),
            (
                _booked(granted.get(key, 0), days),
                _booked(used_s, days),
                telemetry,
                *wait,
                telemetry,
                Measure(products, 1, 1),
            ),
        )
    return found


def _booked(value_s: int, days: tuple[int, int]) -> Measure:
    known, total = days
    return Measure(value_s if known else None, known, total)


def _ledger_days(session: Session, span: _Span) -> tuple[int, int]:
    """Days of the period, as far as it has passed, for which the books exist, and all of them."""
    first = session.scalar(select(func.min(JournalRow.at)))
    last = min(span.as_of, span.ends_at - timedelta(microseconds=1)).astimezone(ALMATY).date()
    start = span.starts_at.astimezone(ALMATY).date()
    total = max(0, (last - start).days + 1)
    if first is None:
        return 0, total
    return max(0, (last - max(start, first.astimezone(ALMATY).date())).days + 1), total


def _of_grants(figure: ColumnElement[Any], dimension: str) -> Select[Any]:
    return (
        _by(figure, dimension)
        .select_from(GrantRow)
        .join(ProjectRow, ProjectRow.id == GrantRow.project_id)
        .join(OrganisationRow, OrganisationRow.id == ProjectRow.organisation_id)
    )


def _of_jobs(figure: ColumnElement[Any], dimension: str) -> Select[Any]:
    return (
        _by(figure, dimension)
        .select_from(JobRow)
        .join(ProjectRow, ProjectRow.id == JobRow.project_id)
        .join(OrganisationRow, OrganisationRow.id == ProjectRow.organisation_id)
    )


def _by(figure: ColumnElement[Any], dimension: str) -> Select[Any]:
    column = _DIMENSIONS[dimension]
    return select(figure) if column is None else select(column, figure).group_by(column)


def _sums(session: Session, dimension: str, statement: Select[Any]) -> dict[str, int]:
    """Figures by key; a key without rows is not there."""
    rows = session.execute(statement).all()
    pairs = [(_ALL, row[0]) for row in rows] if dimension == _ALL else [(row[0], row[1]) for row in rows]
    return {str(key): int(value) for key, value in pairs if value is not None}


def _served(session: Session, span: _Span) -> list[tuple[str, Category, datetime]]:
    """Organisations with a completed job in the period, with the end of their first."""
    rows = session.execute(
        select(OrganisationRow.slug, OrganisationRow.category, func.min(JobRow.finished_at))
        .select_from(JobRow)
        .join(ProjectRow, ProjectRow.id == JobRow.project_id)
        .join(OrganisationRow, OrganisationRow.id == ProjectRow.organisation_id)
        .where(JobRow.state == JobState.COMPLETED.value, span.holds(JobRow.finished_at))
        .group_by(OrganisationRow.slug, OrganisationRow.category)
    )
    return [(slug, Category(category), at) for slug, category, at in rows if at is not None]


def _stage(verdict: Verdict) -> Stage:
    said = [fact for fact in verdict.history.facts if isinstance(fact, Described)]
    return max(enumerate(said), key=lambda item: (item[1].at, item[0]))[1].stage if said else Stage.IDEA


def _products(session: Session, counting: list[Verdict]) -> tuple[ProductLine, ...]:
    rows = {
        row.id: (row, name)
        for row, name in session.execute(
            select(ProductRow, OrganisationRow.name)
            .join(OrganisationRow, OrganisationRow.id == ProductRow.organisation_id)
            .where(ProductRow.id.in_([verdict.history.product_id for verdict in counting]))
        )
    }
    lines = []
    for verdict in counting:
        row, organisation = rows[verdict.history.product_id]
        jobs = [fact for fact in verdict.history.facts if isinstance(fact, Trained)]
        lines.append(
            ProductLine(
                row.slug,
                dict(row.name),
                dict(organisation),
                row.sector,
                verdict.spans[0].since,
                verdict.spans[0].rule,
                len(jobs),
                sum(fact.gpu_seconds for fact in jobs),
            )
        )
    return tuple(sorted(lines, key=lambda line: (line.counted_at, line.slug)))


def _initiatives(session: Session, as_of: datetime) -> tuple[InitiativeLine, ...]:
    lines = []
    for each in history.initiatives(session, as_of):
        found = track(each, as_of.astimezone(ALMATY).date())
        done = None if found.ratio is None else found.ratio.numerator * 100 // found.ratio.denominator
        lines.append(
            InitiativeLine(
                each.slug, each.direction.value, dict(each.kpi), each.deadline, found.progress, done
            )
        )
    return tuple(lines)


def _midnight(on: date) -> datetime:
    return datetime.combine(on, time(), ALMATY)
