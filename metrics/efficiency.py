"""How well a job used what it held: samples folded into a summary that outlives the metrics' retention.

Pure. A fold is a value: ``EMPTY`` plus observations, and two folds of different times or GPUs can be merged, in
any order, with the same result. What was not observed is not guessed: each figure has its own observed time, and
coverage says how much of the time held was observed at all.

The distribution of utilisation is a histogram of 101 fixed bins, one per whole percent, weighted by time: NVML
gives whole percents, so a quantile over it is exact where a sketch (t-digest) would only be close, merging is
addition, and it is 101 numbers whatever the job's length.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

#: Longest time that one observation stands for: two scrapes at 30 s. After a longer gap nothing is known.
MAX_OBSERVED_S: Final = 60.0
#: Below this a GPU is idle: NVML's whole percents round a waiting GPU to 0; 1 % is some daemon's work.
IDLE_BELOW_RATIO: Final = 0.01
#: Bins of the histogram: 0 % to 100 % in whole percents.
BINS: Final = 101

_SECONDS_PER_HOUR: Final = 3600
_JOULES_PER_KWH: Final = 3_600_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What was read of one GPU of a job at one moment; None is what could not be read.

    Attributes:
        at_s: Unix time.
        utilisation_ratio: 0..1.
        memory_used_bytes: Device memory in use.
        energy_j: The GPU's energy counter.
        power_w: Power, where there is no energy counter.
        throttled_s: Sum of the clock event counters that slow a job down.
        xids: Xid errors counted on the GPU, by code, since the exporter started.
    """

    at_s: float
    utilisation_ratio: float | None = None
    memory_used_bytes: int | None = None
    energy_j: float | None = None
    power_w: float | None = None
    throttled_s: float | None = None
    xids: Mapping[int, int] = field(default_factory=dict)

    @property
    def is_known(self) -> bool:
        """Whether the GPU answered anything."""
        values = (self.utilisation_ratio, self.memory_used_bytes, self.energy_j, self.power_w)
        return any(value is not None for value in values)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fold:
    """Sums over the observed time of a job's GPUs. Seconds are GPU-seconds.

    Attributes:
        observed_s: Time for which anything was known.
        utilisation_s: Time spent at each whole percent, ``BINS`` numbers; empty means none.
        memory_peak_bytes: Most memory in use on one GPU, None if never read.
        energy_j: Energy over the time for which it was known.
        energy_observed_s: That time.
        throttled_s: Time in which clocks were held down.
        throttle_observed_s: Time for which that was known.
        xids: Errors by code.
    """

    observed_s: float = 0.0
    utilisation_s: tuple[float, ...] = (0.0,) * BINS
    memory_peak_bytes: int | None = None
    energy_j: float = 0.0
    energy_observed_s: float = 0.0
    throttled_s: float = 0.0
    throttle_observed_s: float = 0.0
    xids: Mapping[int, int] = field(default_factory=dict)


EMPTY: Final = Fold()


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """Figures of a job, or of several together. None is "no data", never 0.

    Attributes:
        held_s: GPU-seconds held.
        observed_s: Of these, observed.
        coverage_ratio: ``observed_s / held_s``, at most 1; None if nothing was held.
        mean_utilisation_ratio: Over the time at which utilisation was known.
        p95_utilisation_ratio: 95 % of that time was at this utilisation or below.
        idle_s: GPU-seconds below ``IDLE_BELOW_RATIO``.
        useful_s: GPU-seconds times utilisation.
        memory_peak_bytes: Most memory in use on one GPU.
        energy_j: Over the time for which it was known.
        energy_coverage_ratio: That time as a share of the time held.
        throttled_s: GPU-seconds in which clocks were held down.
        xids: Errors by code.
    """

    held_s: float
    observed_s: float
    coverage_ratio: float | None
    mean_utilisation_ratio: float | None
    p95_utilisation_ratio: float | None
    idle_s: float | None
    useful_s: float | None
    memory_peak_bytes: int | None
    energy_j: float | None
    energy_coverage_ratio: float | None
    throttled_s: float | None
    xids: Mapping[int, int]

    @property
    def energy_kwh(self) -> float | None:
        """Energy in kWh."""
        return None if self.energy_j is None else self.energy_j / _JOULES_PER_KWH

    @property
    def held_gpu_hours(self) -> float:
        """GPU-hours held."""
        return self.held_s / _SECONDS_PER_HOUR


def observe(last: Reading | None, now: Reading, began_s: float) -> Fold:
    """What one reading adds, given the one before it on the same GPU.

    A reading stands for the time since the last one, or since the GPU was given to the job, but never for more
    than ``MAX_OBSERVED_S``. Counters count only between two readings; one that fell was reset with its driver and
    adds what it shows. Errors from before the first reading are not the job's.

    Args:
        last: The reading before, None at the first.
        now: This reading.
        began_s: Unix time from which the job holds the GPU.
    """
    since_s = began_s if last is None else max(began_s, last.at_s)
    span_s = now.at_s - since_s
    if span_s <= 0 or not now.is_known:
        return EMPTY  # a clock set back, read before the job began, or a GPU that did not answer
    seen_s = min(span_s, MAX_OBSERVED_S)
    fold = Fold(observed_s=seen_s, memory_peak_bytes=now.memory_used_bytes)
    if now.utilisation_ratio is not None:
        fold = replace(fold, utilisation_s=_in_bin(now.utilisation_ratio, seen_s))
    if last is not None and last.at_s >= began_s:
        fold = _with_counters(fold, last, now, span_s)
    if fold.energy_observed_s == 0.0 and now.power_w is not None:
        fold = replace(fold, energy_j=now.power_w * seen_s, energy_observed_s=seen_s)
    return fold


def merge(folds: Iterable[Fold]) -> Fold:
    """Sum of folds: of several GPUs, of several stretches of time, of several jobs."""
    parts = tuple(folds)
    peaks = [part.memory_peak_bytes for part in parts if part.memory_peak_bytes is not None]
    xids: dict[int, int] = {}
    for part in parts:
        for xid, count in part.xids.items():
            xids[xid] = xids.get(xid, 0) + count
    return Fold(
        observed_s=math.fsum(part.observed_s for part in parts),
        utilisation_s=tuple(
            math.fsum(part.utilisation_s[percent] for part in parts) for percent in range(BINS)
        ),
        memory_peak_bytes=max(peaks, default=None),
        energy_j=math.fsum(part.energy_j for part in parts),
        energy_observed_s=math.fsum(part.energy_observed_s for part in parts),
        throttled_s=math.fsum(part.throttled_s for part in parts),
        throttle_observed_s=math.fsum(part.throttle_observed_s for part in parts),
        xids=dict(sorted(xids.items())),
    )


def summarise(fold: Fold, held_s: float) -> Summary:
    """Figures of a fold.

    Args:
        fold: What was observed.
        held_s: GPU-seconds held, from the allocations.
    """
    known_s = math.fsum(fold.utilisation_s)
    useful_s = math.fsum(percent / 100 * seconds for percent, seconds in enumerate(fold.utilisation_s))
    idle_bins = math.ceil(IDLE_BELOW_RATIO * 100)
    has_utilisation = known_s > 0
    return Summary(
        held_s=held_s,
        observed_s=fold.observed_s,
        coverage_ratio=_share(fold.observed_s, held_s),
        mean_utilisation_ratio=useful_s / known_s if has_utilisation else None,
        p95_utilisation_ratio=quantile(fold.utilisation_s, 0.95),
        idle_s=math.fsum(fold.utilisation_s[:idle_bins]) if has_utilisation else None,
        useful_s=useful_s if has_utilisation else None,
        memory_peak_bytes=fold.memory_peak_bytes,
        energy_j=fold.energy_j if fold.energy_observed_s > 0 else None,
        energy_coverage_ratio=_share(fold.energy_observed_s, held_s),
        throttled_s=fold.throttled_s if fold.throttle_observed_s > 0 else None,
        xids=fold.xids,
    )


def quantile(seconds_at: tuple[float, ...], share: float) -> float | None:
    """Least utilisation ratio at or below which at least this share of the time was spent.

    Args:
        seconds_at: Time at each whole percent.
        share: 0..1.

    Returns:
        None if no time was observed.
    """
    total_s = math.fsum(seconds_at)
    if total_s <= 0:
        return None
    # A billionth less, so that the rounding of a sum does not move the rank.
    wanted_s = share * total_s * (1 - 1e-9)
    passed_s = itertools.accumulate(seconds_at)
    return next(percent for percent, upto_s in enumerate(passed_s) if upto_s > 0 and upto_s >= wanted_s) / 100


def _in_bin(ratio: float, seconds: float) -> tuple[float, ...]:
    percent = min(BINS - 1, max(0, round(ratio * 100)))
    return tuple(seconds if place == percent else 0.0 for place in range(BINS))


def _with_counters(fold: Fold, last: Reading, now: Reading, span_s: float) -> Fold:
    """Counters know about the whole span, also where it is longer than a reading may stand for."""
    if last.energy_j is not None and now.energy_j is not None:
        fold = replace(fold, energy_j=_growth(last.energy_j, now.energy_j), energy_observed_s=span_s)
    if last.throttled_s is not None and now.throttled_s is not None:
        throttled_s = min(span_s, _growth(last.throttled_s, now.throttled_s))
        fold = replace(fold, throttled_s=throttled_s, throttle_observed_s=span_s)
    xids = {
        xid: new for xid, count in now.xids.items() if (new := round(_growth(last.xids.get(xid, 0), count)))
    }
    return replace(fold, xids=xids)


def _growth(before: float, after: float) -> float:
    return after - before if after >= before else after


def _share(part_s: float, whole_s: float) -> float | None:
    """A share of the time held; a little more than all of it is clock noise."""
    return min(1.0, part_s / whole_s) if whole_s > 0 else None
