"""What a replay of a trace is judged by; every figure is defined here once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

BOUND_S: Final = 10
"""Seconds below which a run counts as so long, so that a job of a moment does not rule the mean slowdown."""
DIGITS: Final = 6
"""Decimals of every figure: the same input gives the same bytes."""


@dataclass(frozen=True, slots=True)
class Ended:
    """A job of the trace that ran to its end.

    Args:
        run_s: what it ran in the attempt that ended well.
        spans: (start, end) in seconds of all its attempts.
        id: of the job in its trace; "" where nobody asks.
    """

    queue: str
    tenant: str
    gpus: int
    submit_s: float
    end_s: float
    run_s: float
    spans: tuple[tuple[float, float], ...]
    id: str = ""


@dataclass(frozen=True, slots=True)
class Disruption:
    """What reclaiming cost: counts, GPU-seconds, and seconds by which promised starts were missed."""

    preemptions: int = 0
    useless_preemptions: int = 0
    lost_gpu_seconds: int = 0
    guarantee_violation_s: int = 0


def measure(jobs: Sequence[Ended], capacity_gpus: int, disruption: Disruption) -> dict[str, object]:
    """All figures of a replay, as JSON values.

    wait: time between submission and end in which the job did not run. bounded slowdown:
    max(1, (end - submission) / max(run, 10 s)); an attempt whose work was lost counts as delay. Utilisation:
    GPU-seconds held between the first and the last submission over capacity x that window. Jain's index:
    (Σx)² / (n Σx²) over x = 1 / mean bounded slowdown of each tenant. Source: Jain, Chiu and Hawe,
    DEC-TR-301, 1984; Feitelson's metrics of job scheduling.
    """
    return {
        "jobs": len(jobs),
        "makespan_s": rounded(max((job.end_s for job in jobs), default=0) - _first(jobs)),
        "gpu_utilization_ratio": rounded(_utilisation(jobs, capacity_gpus)),
        "wait_s": _spread([wait_s(job) for job in jobs], ("mean", "p50", "p95", "p99", "max")),
        "bounded_slowdown": _spread([_slowdown(job) for job in jobs], ("mean", "p95")),
        "preemptions": disruption.preemptions,
        "useless_preemptions": disruption.useless_preemptions,
        "lost_gpu_seconds": disruption.lost_gpu_seconds,
        "guarantee_violation_s": disruption.guarantee_violation_s,
        "jain_index": rounded(_jain(jobs)),
        "by_queue": {queue: _of_queue(found) for queue, found in sorted(_grouped(jobs).items())},
    }


def _of_queue(jobs: Sequence[Ended]) -> dict[str, object]:
    return {
        "jobs": len(jobs),
        "gpu_seconds": rounded(sum(job.gpus * job.run_s for job in jobs)),
        "wait_s": _spread([wait_s(job) for job in jobs], ("mean", "p50", "p95", "p99", "max")),
        "bounded_slowdown": _spread([_slowdown(job) for job in jobs], ("mean", "p95")),
    }


def _grouped(jobs: Iterable[Ended]) -> Mapping[str, list[Ended]]:
    found: dict[str, list[Ended]] = {}
    for job in jobs:
        found.setdefault(job.queue, []).append(job)
    return found


def _first(jobs: Sequence[Ended]) -> float:
    return min((job.submit_s for job in jobs), default=0)


def wait_s(job: Ended) -> float:
    """Seconds between its submission and its end in which the job did not run."""
    return job.end_s - job.submit_s - sum(end - start for start, end in job.spans)


def _slowdown(job: Ended) -> float:
    return max(1.0, (job.end_s - job.submit_s) / max(job.run_s, BOUND_S))


def _utilisation(jobs: Sequence[Ended], capacity_gpus: int) -> float:
    first, last = _first(jobs), max((job.submit_s for job in jobs), default=0)
    held = sum(
        job.gpus * max(0.0, min(end, last) - max(start, first)) for job in jobs for start, end in job.spans
    )
    return held / (capacity_gpus * (last - first)) if last > first else 0.0


def _jain(jobs: Sequence[Ended]) -> float:
    by_tenant: dict[str, list[float]] = {}
    for job in jobs:
        by_tenant.setdefault(job.tenant, []).append(_slowdown(job))
    return jain([len(found) / sum(found) for _, found in sorted(by_tenant.items())])


def jain(shares: Sequence[float]) -> float:
    """Jain's index (Σx)² / (n Σx²); 1 where there is nothing to share."""
    squares = len(shares) * sum(share**2 for share in shares)
    return sum(shares) ** 2 / squares if squares else 1.0


def percentile(ordered: Sequence[float], ratio: float) -> float:
    """The percentile of values in ascending order, by linear interpolation; 0 where there are none."""
    if not ordered:
        return 0.0
    place = ratio * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def _spread(values: Iterable[float], names: Iterable[str]) -> dict[str, float]:
    ordered = sorted(values)
    known = {
        "mean": sum(ordered) / len(ordered) if ordered else 0.0,
        "p50": percentile(ordered, 0.5),
        "p95": percentile(ordered, 0.95),
        "p99": percentile(ordered, 0.99),
        "max": ordered[-1] if ordered else 0.0,
    }
    return {name: rounded(known[name]) for name in names}


def rounded(value: float) -> float:
    """A figure as it is printed."""
    return round(float(value), DIGITS)
