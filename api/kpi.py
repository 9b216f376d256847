"""Indicators as they are told: to the API's callers and on the command line, from the same figures."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Engine, func, select
from sqlalchemy.orm import Session

from api.i18n import translate
from api.indicator_answers import (
    ContributionOut,
    CountedOut,
    CoverageOut,
    EvidenceRuleOut,
    ImportedOut,
    IndicatorOut,
    IndicatorYearOut,
)
from products import history
from products.evidence import Condition, Review, Verdict
from products.gather import contributions, is_simulated
from products.indicator import ALMATY, TARGETS, YearWithoutTargetError
from products.kpi import FutureError, indicator_2, year_bounds
from products.rules import rule_in_force
from products.service import visible_ids
from store.engine import snapshot
from store.tables import JournalRow
from tenants.authz import Action, may
from tenants.model import Principal

INDICATOR_2: Final = 2
INDICATOR_7: Final = 7
INDICATOR_8: Final = 8
COUNTED: Final = (INDICATOR_2, INDICATOR_7, INDICATOR_8)
"""Indicators of the Concept that the platform has figures of."""

_UNITS: Final = {INDICATOR_7: "organisations", INDICATOR_8: "products"}


def checked_as_of(as_of: datetime | None, now: datetime) -> datetime:
    """The instant figures are asked for: now, unless another that has passed is named.

    Raises:
        FutureError: it has not come.
    """
    if as_of is None:
        return now
    if as_of > now:
        raise FutureError(f"the as-of time {as_of.isoformat(timespec='seconds')}", now)
    return as_of


def source(number: int) -> str:
    """Where the targets of an indicator stand."""
    return f"AI Concept 2024-2029, Government decree No 592 of 24 July 2024, target indicator {number}"


def indicator(
    session: Session, caller: Principal | None, language: str, as_of: datetime, years: Sequence[int] = ()
) -> IndicatorOut:
    """Target indicator 2 in the years asked for, or in every year with a target.

    Args:
        session: an open session.
        caller: products it may not see are counted without their names; None sees every name (the command line).
        language: language of the definition.
        as_of: instant the figures hold for.
        years: years to tell.

    Raises:
        YearWithoutTargetError: no target is set for one of the years.
    """
    wanted = list(years) or sorted(TARGETS)
    for year in wanted:
        if year not in TARGETS:
            raise YearWithoutTargetError(year)
    judged, imported = history.verdicts(session, as_of), history.imported(session)
    begun = [indicator_2(judged, imported, year, as_of) for year in wanted if year_bounds(year)[0] <= as_of]
    told = {each.year: IndicatorYearOut.of(each) for each in begun}
    rule = rule_in_force(history.published_rules(), as_of)
    last = {item.slug for item in begun[-1].counted} if begun else set()
    shown = [item for item in imported if item.imported_at <= as_of]
    until = max(wanted)
    failing = [{held.condition for held in each.conditions if not held.holds} for each in judged]
    return IndicatorOut(
        indicator=INDICATOR_2,
        unit="products",
        definition=translate(language, "indicator.2.definition"),
        ambiguity=translate(language, "page.overview.ambiguity"),
        source=source(INDICATOR_2),
        as_of=as_of,
        is_simulated=is_simulated(session),
        rule=None if rule is None else EvidenceRuleOut.of(rule),
        coverage=CoverageOut(
            products_judged=len(judged), records_since=session.scalar(select(func.min(JournalRow.at)))
        ),
        years=[told.get(year) or IndicatorYearOut.not_begun(year, TARGETS[year]) for year in wanted],
        counted=_counted(session, caller, [each for each in judged if each.history.slug in last]),
        imported=[ImportedOut.of(item) for item in shown if item.counted_on.year <= until],
        unverified=sum(each.standing.review not in {Review.VERIFIED, Review.WITHDRAWN} for each in judged),
        without_evidence=sum(
            each.standing.review is Review.VERIFIED and Condition.GPU_HOURS in failed
            for each, failed in zip(judged, failing, strict=True)
        ),
        reviews_overdue=sum(each.is_review_overdue for each in judged),
    )


def _counted(session: Session, caller: Principal | None, counted: Sequence[Verdict]) -> list[CountedOut]:
    ids = [each.history.product_id for each in counted]
    shown = frozenset(ids) if caller is None else visible_ids(session, caller, ids)
    found = [
        CountedOut(
            product_id=each.history.product_id,
            slug=each.history.slug if each.history.product_id in shown else None,
            held_at=each.counted_at,
            year=each.counted_at.astimezone(ALMATY).year,
            rule=each.spans[0].rule,
        )
        for each in counted
        if each.counted_at is not None
    ]
    return sorted(found, key=lambda item: (item.held_at, item.product_id))


def contribution(
    session: Session, caller: Principal | None, language: str, as_of: datetime, asked: tuple[int, int]
) -> ContributionOut:
    """The platform's contribution to the national indicator 7 or 8 in a year.

    Args:
        session: an open session.
        caller: sees whom it counted only if it sees the whole platform; None does (the command line).
        language: language of the definition.
        as_of: instant the figure holds for.
        asked: the indicator's number, and the year.

    Raises:
        YearWithoutTargetError: no target is set for the year.
        FutureError: the year has not begun.
    """
    number, year = asked
    found = next(each for each in contributions(session, year, as_of) if each.indicator == number)
    may_see = caller is None or may(caller, Action.READ)
    return ContributionOut(
        indicator=number,
        unit=_UNITS[number],
        definition=translate(language, f"indicator.{number}.definition"),
        ambiguity=translate(language, f"indicator.{number}.ambiguity") if found.is_ambiguous else None,
        source=source(number),
        as_of=as_of,
        is_simulated=is_simulated(session),
        year=year,
        national_target=found.target,
        contribution=found.count,
        counted=list(found.counted) if may_see else None,
    )


def document(
    engine: Engine, number: int, at: datetime, *, year: int | None = None, language: str = "en"
) -> dict[str, Any]:
    """An indicator as a JSON document for the command line.

    Args:
        engine: the database.
        number: one of `COUNTED`.
        at: instant the figures hold for.
        year: one year; None: every year with a target, of 7 and 8 that of `at`.
        language: language of the definition.

    Raises:
        YearWithoutTargetError: no target is set for the year.
        FutureError: the year of 7 or 8 has not begun.
    """
    with snapshot(engine) as session:
        if number == INDICATOR_2:
            found = indicator(session, None, language, at, [] if year is None else [year])
            return found.model_dump(mode="json")
        asked = at.astimezone(ALMATY).year if year is None else year
        return contribution(session, None, language, at, (number, asked)).model_dump(mode="json")
