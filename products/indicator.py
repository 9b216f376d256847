"""Target indicator 2: growth of the number of AI products developed on the National AI Platform. Pure.

Source: AI Concept 2024-2029, Government decree No 592 of 24 July 2024, table of target indicators. The document does
not say whether a year's figure is cumulative, so both readings are given and labelled.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Final
from zoneinfo import ZoneInfo

from products.model import Candidate, Counted, Indicator, ProductStatus

TARGETS: Final[Mapping[int, int]] = {2025: 5, 2026: 10, 2027: 15, 2028: 20, 2029: 25}
"""Products planned by year. Source: see the module."""

ALMATY: Final = ZoneInfo("Asia/Almaty")
"""Where a calendar year begins and ends for the indicator."""


class YearWithoutTargetError(ValueError):
    """No target is set for the year."""

    def __init__(self, year: int) -> None:
        first, last = min(TARGETS), max(TARGETS)
        super().__init__(f"the Concept sets no target for {year}; ask for a year from {first} to {last}")
        self.year = year
        self.first = first
        self.last = last


def held_since(candidate: Candidate) -> datetime | None:
    """First moment at which the product was verified and had a completed job that used GPU time; None before."""
    if candidate.status is not ProductStatus.VERIFIED:
        return None
    if candidate.verified_at is None or candidate.evidence_at is None:
        return None
    return max(candidate.verified_at, candidate.evidence_at)


def indicator_2(candidates: Iterable[Candidate], year: int, as_of: datetime) -> Indicator:
    """The indicator of one year, counted from the register as it stood at `as_of`. O(n log n).

    Args:
        candidates: every product of the register.
        year: a year with a target.
        as_of: aware instant; what happened after it does not count.

    Raises:
        YearWithoutTargetError: the Concept sets no target for the year.
    """
    if year not in TARGETS:
        raise YearWithoutTargetError(year)
    counted: list[Counted] = []
    unverified = without_evidence = 0
    for candidate in candidates:
        held_at = held_since(candidate)
        if held_at is not None and held_at <= as_of:
            counted.append(
                Counted(candidate.product_id, candidate.slug, held_at, held_at.astimezone(ALMATY).year)
            )
        elif candidate.verified_at is None or candidate.verified_at > as_of:
            unverified += 1
        else:
            without_evidence += 1
    counted.sort(key=lambda item: (item.held_at, item.slug))
    until = tuple(item for item in counted if item.year <= year)
    has_begun = as_of.astimezone(ALMATY).year >= year
    return Indicator(
        year=year,
        target=TARGETS[year],
        cumulative=len(until) if has_begun else None,
        added=sum(item.year == year for item in until) if has_begun else None,
        as_of=as_of,
        counted=until if has_begun else (),
        unverified=unverified,
        without_evidence=without_evidence,
    )
