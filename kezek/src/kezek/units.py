"""Durations and sizes as people write them."""

from __future__ import annotations

import re

from kezek.errors import UsageFaultError

_DURATION = re.compile(r"(?:(\d{1,5})d)?(?:(\d{1,6})h)?(?:(\d{1,8})m)?(?:(\d{1,9})s?)?", re.ASCII)
_CLOCK = re.compile(r"(\d{1,5}):([0-5]\d):([0-5]\d)", re.ASCII)
_SIZE = re.compile(r"(\d{1,15})\s*(B|[KMGT]i?B?)?", re.ASCII | re.IGNORECASE)
_DURATION_UNITS_S = (86_400, 3_600, 60, 1)
_STEPS = {"": 0, "B": 0, "K": 1, "M": 2, "G": 3, "T": 4}


def parse_duration_s(text: str) -> int:
    """Return whole seconds, 1 or more, of "2h", "1d12h", "90m", "1h30m15s", "3600" or "02:00:00".

    Raises:
        UsageFaultError: it is none of these.
    """
    clock = _CLOCK.fullmatch(text)
    if clock is not None:
        hours, minutes, seconds = map(int, clock.groups())
        total_s = hours * 3_600 + minutes * 60 + seconds
    else:
        match = _DURATION.fullmatch(text)
        parts = match.groups() if match is not None else ()
        total_s = sum(int(part or 0) * unit for part, unit in zip(parts, _DURATION_UNITS_S, strict=False))
    if total_s < 1:
        raise UsageFaultError("usage.duration", value=text)
    return total_s


def parse_size_bytes(text: str) -> int:
    """Return bytes, 1 or more, of "4GiB", "512M" (binary), "2GB" (decimal) or a bare number of bytes.

    Raises:
        UsageFaultError: it is none of these.
    """
    match = _SIZE.fullmatch(text.strip())
    unit = (match.group(2) or "").upper() if match is not None else ""
    base = 1_000 if unit.endswith("B") and not unit.endswith("IB") and unit != "B" else 1_024
    total_bytes = int(match.group(1)) * base ** _STEPS[unit[:1]] if match is not None else 0
    if total_bytes < 1:
        raise UsageFaultError("usage.size", value=text)
    return total_bytes
