"""A fold as a JSON object and back. Pure; percents at which no time was spent are left out."""

from __future__ import annotations

from collections.abc import Mapping

from metrics.efficiency import BINS, Fold


class FoldShapeError(ValueError):
    """A stored fold is not of the shape that ``to_json`` makes."""


def to_json(fold: Fold) -> dict[str, object]:
    """The fold as a JSON object."""
    return {
        "observed_s": fold.observed_s,
        "utilisation_s": {str(place): time_s for place, time_s in enumerate(fold.utilisation_s) if time_s},
        "memory_peak_bytes": fold.memory_peak_bytes,
        "energy_j": fold.energy_j,
        "energy_observed_s": fold.energy_observed_s,
        "throttled_s": fold.throttled_s,
        "throttle_observed_s": fold.throttle_observed_s,
        "xids": {str(xid): count for xid, count in fold.xids.items()},
    }


def from_json(stored: Mapping[str, object]) -> Fold:
    """The fold of a JSON object.

    Raises:
        FoldShapeError: It is of another shape.
    """
    try:
        at = {int(percent): time_s for percent, time_s in _numbers(stored["utilisation_s"]).items()}
        peak = stored["memory_peak_bytes"]
        return Fold(
            observed_s=_number(stored["observed_s"]),
            utilisation_s=tuple(at.get(percent, 0.0) for percent in range(BINS)),
            memory_peak_bytes=None if peak is None else int(_number(peak)),
            energy_j=_number(stored["energy_j"]),
            energy_observed_s=_number(stored["energy_observed_s"]),
            throttled_s=_number(stored["throttled_s"]),
            throttle_observed_s=_number(stored["throttle_observed_s"]),
            xids={int(xid): int(count) for xid, count in _numbers(stored["xids"]).items()},
        )
    except (KeyError, TypeError, ValueError) as error:
        raise FoldShapeError(f"a stored fold cannot be read: {error!r}") from error


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{value!r} is no number")
    return float(value)


def _numbers(value: object) -> dict[str, float]:
    if not isinstance(value, dict):
        raise TypeError(f"{value!r} is no object")
    return {str(key): _number(number) for key, number in value.items()}
