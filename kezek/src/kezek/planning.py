"""What is typed about when and after what a job starts."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import datetime
from typing import Final

from kezek.errors import UsageFaultError
from kezek.messages import ALMATY

_DEPENDENCY: Final = re.compile(r"(?:(afterok|afterany|afternotok):)?([1-9][0-9]{0,17})")
_EVERY: Final = re.compile(r"([1-9][0-9]?)([dw])")
_ARRAY: Final = re.compile(r"([1-9][0-9]{0,5})(?:%([1-9][0-9]{0,5}))?")


def parse_instant(text: str) -> datetime:
    """An instant as it is typed: ISO 8601, in Almaty's time where it names no zone.

    Raises:
        UsageFaultError: it is none.
    """
    try:
        found = datetime.fromisoformat(text)
    except ValueError as error:
        raise UsageFaultError("usage.instant", value=text) from error
    return found if found.tzinfo is not None else found.replace(tzinfo=ALMATY)


def parse_dependencies(texts: Iterable[str]) -> list[dict[str, object]]:
    """Dependencies as they are typed: `17`, `afterany:17`.

    Raises:
        UsageFaultError: one is none.
    """
    found: list[dict[str, object]] = []
    for text in texts:
        parts = _DEPENDENCY.fullmatch(text)
        if parts is None:
            raise UsageFaultError("usage.dependency", value=text)
        found.append({"job_id": int(parts[2]), "kind": parts[1] or "afterok"})
    return found


def parse_every(text: str) -> dict[str, object]:
    """How often a window recurs, as it is typed: `1d`, `2w`.

    Raises:
        UsageFaultError: it is neither.
    """
    parts = _EVERY.fullmatch(text)
    if parts is None:
        raise UsageFaultError("usage.every", value=text)
    return {"every": {"d": "day", "w": "week"}[parts[2]], "interval": int(parts[1])}


def parse_array(text: str) -> dict[str, object]:
    """An array as it is typed: `100`, or `100%8` for eight at a time.

    Raises:
        UsageFaultError: it is none.
    """
    parts = _ARRAY.fullmatch(text)
    if parts is None:
        raise UsageFaultError("usage.array", value=text)
    return {"count": int(parts[1]), "cap": int(parts[2] or parts[1])}
