"""The one clock of the platform. The core never imports it; the shell reads it and passes instants in."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

ALMATY = ZoneInfo("Asia/Almaty")
"""Time zone in which people read times and in which a calendar year is counted."""

_EPOCH = datetime.fromtimestamp(0, UTC)


def now() -> datetime:
    """Return the present instant as an aware datetime in UTC."""
    return datetime.now(UTC)


def to_ms(at: datetime) -> int:
    """Return whole milliseconds since the Unix epoch, rounded down.

    Raises:
        ValueError: if `at` is naive.
    """
    if at.tzinfo is None:
        raise ValueError(f"instant {at.isoformat()} has no time zone; use an aware datetime in UTC")
    delta = at - _EPOCH
    return (delta.days * 86_400 + delta.seconds) * 1000 + delta.microseconds // 1000


def from_ms(at_ms: int) -> datetime:
    """Return the aware UTC datetime of `at_ms` milliseconds since the Unix epoch."""
    return datetime.fromtimestamp(at_ms // 1000, UTC).replace(microsecond=at_ms % 1000 * 1000)
