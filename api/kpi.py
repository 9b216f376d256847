"""Indicators as they are told: to the API's callers and on the command line, from the same figures."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Engine
from sqlalchemy.orm import Session

from api.i18n import translate
from api.product_answers import CountedOut, IndicatorOut
from products.indicator import TARGETS
from products.model import Counted
from products.service import indicators, visible_ids
from store.engine import snapshot
from tenants.model import Principal

SOURCE = "AI Concept 2024-2029, Government decree No 592 of 24 July 2024, target indicator 2"
"""Where the targets stand."""


def indicator_2(
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
    found = indicators(session, years or sorted(TARGETS), as_of)
    last = max(found, key=lambda each: len(each.counted))
    return IndicatorOut(
        indicator=2,
        unit="products",
        definition=translate(language, "indicator.2.definition"),
        ambiguity=translate(language, "page.overview.ambiguity"),
        source=SOURCE,
        as_of=as_of,
        years=[IndicatorOut.year_of(each) for each in found],
        counted=_counted(session, caller, last.counted),
        unverified=last.unverified,
        without_evidence=last.without_evidence,
    )


def _counted(session: Session, caller: Principal | None, counted: Iterable[Counted]) -> list[CountedOut]:
    items = list(counted)
    ids = [item.product_id for item in items]
    shown = frozenset(ids) if caller is None else visible_ids(session, caller, ids)
    return [
        CountedOut(
            product_id=item.product_id,
            slug=item.slug if item.product_id in shown else None,
            held_at=item.held_at,
            year=item.year,
        )
        for item in items
    ]


def indicator(engine: Engine, number: int, at: datetime) -> dict[str, Any]:
    """An indicator as a JSON document for the command line.

    Raises:
        ValueError: the platform counts no such indicator.
    """
    if number != 2:  # noqa: PLR2004 - the indicator's number in the Concept
        raise ValueError(f"the platform counts no indicator {number}; it counts indicator 2")
    with snapshot(engine) as session:
        return indicator_2(session, None, "en", at).model_dump(mode="json")
