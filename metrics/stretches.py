"""The idle stretch of each GPU of an attempt as JSON, and what readings do to it. Pure.

Kept beside the fold, in the same row and under the same lock, so that a restart forgets no stretch and two samplers
lengthen none.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

from metrics.idle import BUSY, GpuIdle, track


class StretchShapeError(ValueError):
    """A stored stretch is not of the shape that ``tracked`` makes."""


def tracked(
    stored: Mapping[str, object], readings: Mapping[str, tuple[float | None, float]], at: datetime
) -> dict[str, object]:
    """The stored stretches after readings.

    Args:
        stored: What was stored, by UUID.
        readings: Utilisation and the seconds that it stands for, by UUID; a GPU that was not read stays as it is.
        at: When they were read.

    Raises:
        StretchShapeError: What is stored is of another shape.
    """
    known = of_json(stored)
    for uuid, (utilisation_ratio, seconds) in readings.items():
        if seconds > 0:
            known[uuid] = track(known.get(uuid, BUSY), utilisation_ratio, at, timedelta(seconds=seconds))
    return {
        uuid: {
            "since_ms": _ms(gpu.idle_since),
            "observed_ms": gpu.observed // timedelta(milliseconds=1),
        }
        for uuid, gpu in sorted(known.items())
        if gpu.idle_since is not None
    }


def of_json(stored: Mapping[str, object]) -> dict[str, GpuIdle]:
    """The idle stretches by UUID; a GPU that is missing is not idle, or was never seen.

    Raises:
        StretchShapeError: They are of another shape.
    """
    found: dict[str, GpuIdle] = {}
    for uuid, value in stored.items():
        match value:
            case {"since_ms": int(since_ms), "observed_ms": int(observed_ms)}:
                since = datetime.fromtimestamp(since_ms / 1000, UTC)
                found[uuid] = GpuIdle(since, timedelta(milliseconds=observed_ms))
            case _:
                raise StretchShapeError(f"the stored stretch of {uuid} cannot be read: {value!r}")
    return found


def _ms(at: datetime | None) -> int | None:
    return None if at is None else round(at.timestamp() * 1000)
