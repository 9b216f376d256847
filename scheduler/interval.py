"""When a job with a planned start will really begin: an interval that is to hold four times in five.

A planned start counts every job at its full walltime; most end sooner, so most starts come sooner. How much sooner
differs from cluster to cluster (docs/performance.md), so it is learned from the cluster's own last starts.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Final

LOW: Final = 0.1
"""Share of starts that come before the interval."""
HIGH: Final = 0.9
"""Share of starts that come before the interval's end; HIGH - LOW is what it states, 80 %."""
STATED_PERCENT: Final = 80
"""Starts in a hundred that are to come within their interval."""
REMEMBERED: Final = 500
"""Starts that are looked back on: enough for a tenth of them to mean something, few enough to follow changes."""
LEAST: Final = 20
"""Starts below which nothing is learned yet: the interval is from now to the planned start."""


@dataclass(frozen=True, slots=True)
class Told:
    """The first planned start that a job was told, at `at_ms`, and when it first began."""

    at_ms: int
    start_ms: int
    began_ms: int


@dataclass(frozen=True, slots=True)
class Interval:
    """When a job is expected to start.

    Args:
        from_ms: one start in ten comes before it.
        to_ms: one start in ten comes after it.
        learned_from: starts of this cluster that it was learned from; 0 = not learned yet: from now to the
            planned start, and no share is stated.
    """

    from_ms: int
    to_ms: int
    learned_from: int


class StartRecord:
    """What share of the time to a planned start really passed, of the last REMEMBERED starts."""

    def __init__(self) -> None:
        self._shares: Final[deque[float]] = deque(maxlen=REMEMBERED)

    def add(self, told: Told) -> None:
        """A job that was told a start has begun."""
        length_ms = told.start_ms - told.at_ms
        if length_ms > 0:
            self._shares.append((told.began_ms - told.at_ms) / length_ms)

    def interval(self, at_ms: int, start_ms: int, now_ms: int | None = None) -> Interval:
        """The interval for a start that was planned at `at_ms` for `start_ms`, of a job that waits at `now_ms`.

        Jobs that had begun by that share of their time say nothing about one that still waits. O(REMEMBERED).

        Args:
            at_ms: when the start was planned.
            start_ms: the planned start.
            now_ms: when it is asked; None = when it was planned.
        """
        now_ms = at_ms if now_ms is None else max(now_ms, at_ms)
        length_ms = start_ms - at_ms
        shares = self._shares if now_ms == at_ms else self._later_than(now_ms - at_ms, length_ms)
        if len(shares) < LEAST or length_ms <= 0:
            return Interval(now_ms, max(now_ms, start_ms), 0)
        ordered = sorted(shares)
        low, high = (ordered[int(ratio * (len(ordered) - 1))] for ratio in (LOW, HIGH))
        from_ms = max(now_ms, at_ms + int(low * length_ms))
        return Interval(from_ms, max(from_ms, at_ms + round(high * length_ms)), len(ordered))

    def _later_than(self, passed_ms: int, length_ms: int) -> list[float]:
        """Shares of the starts that had not come when so much of their time had passed."""
        return [share for share in self._shares if share * length_ms > passed_ms]


def coverage(told: list[Told], read_ratio: float = 0.0) -> tuple[int, int]:
    """Of starts that were told: how many began within their interval, and how many there were.

    Each interval is learned from starts that had begun when it was read.

    Args:
        told: first planned starts and when they came.
        read_ratio: share of the time to the planned start after which the interval is read, of those that wait
            still; 0 = when it was told.
    """
    record = StartRecord()
    begun = deque(sorted(told, key=lambda entry: entry.began_ms))
    reads = sorted(
        (entry.at_ms + int(read_ratio * (entry.start_ms - entry.at_ms)), number)
        for number, entry in enumerate(told)
        if entry.start_ms > entry.at_ms
    )
    within = asked = 0
    for read_ms, number in reads:
        while begun and begun[0].began_ms <= read_ms:
            record.add(begun.popleft())
        entry = told[number]
        if read_ratio and entry.began_ms <= read_ms:
            continue
        found = record.interval(entry.at_ms, entry.start_ms, read_ms)
        within += found.from_ms <= entry.began_ms <= found.to_ms
        asked += 1
    return within, asked
