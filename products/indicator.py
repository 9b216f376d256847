"""The targets of indicators 2, 7 and 8, and where their calendar year begins. Pure.

Source: AI Concept 2024-2029, Government decree No 592 of 24 July 2024, table of target indicators; the three have the
same series. The document does not say whether a year's figure is cumulative, so both readings are given and labelled.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final
from zoneinfo import ZoneInfo

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
