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


class StartRecord:
    """What share of the time to a planned start really passed, of the last REMEMBERED starts."""

    def __init__(self) -> None:
        self._shares: Final[deque[float]] = deque(maxlen=REMEMBERED)

    def add(self, told: Told) -> None:
        """A job that was told a start has begun."""
        length_ms = told.start_ms - told.at_ms
        if length_ms > 0:
            self._shares.append((told.began_ms - told.at_ms) / length_ms)

    def interval(self, at_ms: int, start_ms: int) -> tuple[int, int]:
        """The interval for a start that is planned at `at_ms` for `start_ms`: its first and last instant."""
        length_ms = max(0, start_ms - at_ms)
        if len(self._shares) < LEAST:
            return (at_ms, at_ms + length_ms)
        ordered = sorted(self._shares)
        low, high = (ordered[int(ratio * (len(ordered) - 1))] for ratio in (LOW, HIGH))
        return (at_ms + int(low * length_ms), at_ms + round(high * length_ms))


def coverage(told: list[Told]) -> tuple[int, int]:
    """Of starts that were told: how many began within their interval, and how many there were.

    Each interval is learned from starts that had begun when it was told.
    """
    record = StartRecord()
    begun = deque(sorted(told, key=lambda entry: entry.began_ms))
    within = 0
    asked = sorted((entry for entry in told if entry.start_ms > entry.at_ms), key=lambda entry: entry.at_ms)
    for entry in asked:
        while begun and begun[0].began_ms <= entry.at_ms:
            record.add(begun.popleft())
        low, high = record.interval(entry.at_ms, entry.start_ms)
        within += low <= entry.began_ms <= high
    return within, len(asked)
