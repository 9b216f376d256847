"""Windows that recur: every so many days or weeks by the clock of a place, until an end. Pure.

A small named set on purpose: what stands in a calendar of maintenance is daily or weekly, and each record can be
read by a person.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Final
from zoneinfo import ZoneInfo

HORIZON_DAYS: Final = 35
"""Days ahead for which occurrences are planned around: longer than the longest walltime that queues give."""
MAX_REPEAT_DAYS: Final = 366
"""Days for which a window recurs at most: then an operator looks at it again."""
MAX_INTERVAL: Final = 52
"""Days or weeks between two occurrences at most."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MS: Final = timedelta(milliseconds=1)


class Every(StrEnum):
    """The unit of recurrence."""

    DAY = "day"
    WEEK = "week"


_LENGTHS: Final = {Every.DAY: timedelta(days=1), Every.WEEK: timedelta(weeks=1)}


@dataclass(frozen=True, slots=True)
class Repeats:
    """How a window recurs after its first occurrence.

    Args:
        every: day or week.
        interval: so many of them lie between two occurrences, 1 to MAX_INTERVAL.
        zone: IANA name of the zone by whose clock it recurs, as `Asia/Almaty`.
        until_ms: no occurrence begins after it.
    """

    every: Every
    interval: int
    zone: str
    until_ms: int

    @property
    def step(self) -> timedelta:
        """What lies between two occurrences, on the wall's clock."""
        return self.interval * _LENGTHS[self.every]


def occurrences(from_ms: int, to_ms: int, repeats: Repeats, at_ms: int) -> Iterator[tuple[int, int, int]]:
    """Number (from 0), begin and end of the occurrences that have not ended and begin within HORIZON_DAYS.

    Each begins at the same time of day by the zone's clock, and lasts as long as the first. O(HORIZON_DAYS).
    """
    zone = ZoneInfo(repeats.zone)
    first = (_EPOCH + from_ms * _MS).astimezone(zone)
    last_ms = min(repeats.until_ms, at_ms + timedelta(days=HORIZON_DAYS) // _MS)
    number = max(0, (at_ms - to_ms) // (repeats.step // _MS) - 1)
    while True:
        begins = (first.replace(tzinfo=None) + number * repeats.step).replace(tzinfo=zone)
        begins_ms = (begins.astimezone(UTC) - _EPOCH) // _MS
        if begins_ms > last_ms:
            return
        ends_ms = begins_ms + to_ms - from_ms
        if ends_ms > at_ms:
            yield number, begins_ms, ends_ms
        number += 1
