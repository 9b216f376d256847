"""What a replay made of guarantees: figures by queue, from when its jobs waited and ran, whatever scheduled them.

All follow from the ends of a replay alone, so that schedulers without guarantees are judged by the same figures.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final

from scheduler.measures import Disruption, Ended, jain, percentile, rounded, wait_s

LATE: Final = 1.05
"""Finish-time fairness above which a job counts as worse off than alone."""
HOUR_S: Final = 3_600
"""Seconds of an hour."""


@dataclass(frozen=True, slots=True)
class Promise:
    """What a queue is promised.

    Args:
        guarantee_gpus: what it is entitled to.
        cap_gpus: the most that it may hold; None = all.
    """

    guarantee_gpus: int
    cap_gpus: int | None = None


class _Kind(IntEnum):
    """What a moment of a job is; at one instant in this order."""

    STOP = 0
    END = 1
    SUBMIT = 2
    START = 3


@dataclass(slots=True)
class _Queue:
    """A queue while the replay is walked through, and its integrals in GPU-seconds."""

    promise: Promise
    used: int = 0
    asked: int = 0
    waiting: Counter[int] = field(default_factory=Counter)
    short: float = 0.0
    owed: float = 0.0
    delivered: float = 0.0
    borrowed: float = 0.0

    def pass_time(self, span_s: float) -> None:
        """The state was as it is for so long."""
        guarantee = self.promise.guarantee_gpus
        owed = min(self.asked, guarantee)
        self.owed += owed * span_s
        self.short += max(0, owed - self.used) * span_s
        self.delivered += self.used * span_s
        self.borrowed += max(0, self.used - guarantee) * span_s

    def could_start(self, idle_gpus: int) -> bool:
        """Whether its smallest waiting job asks for no more than is idle, and than the queue may hold."""
        if not self.waiting:
            return False
        least = min(self.waiting)
        cap = self.promise.cap_gpus
        return least <= idle_gpus and (cap is None or self.used + least <= cap)

    def take(self, kind: _Kind, gpus: int) -> None:
        """A job of the queue came, began, stopped or ended."""
        match kind:
            case _Kind.SUBMIT:
                self.asked += gpus
                self.waiting[gpus] += 1
            case _Kind.START:
                self.used += gpus
                self.waiting -= Counter([gpus])
            case _Kind.STOP:
                self.used -= gpus
                self.waiting[gpus] += 1
            case _Kind.END:
                self.used -= gpus
                self.asked -= gpus


def judge(
    jobs: Sequence[Ended],
    capacity_gpus: int,
    promises: Mapping[str, Promise],
    disruption: Disruption,
    alone_s: Mapping[str, float],
) -> dict[str, object]:
    """What was made of guarantees, as JSON values.

    With demand = GPUs of a queue's jobs that wait or run, use = GPUs that it holds, g = its guarantee:
    guarantee shortfall: ∫ max(0, min(demand, g) - use) dt / ∫ min(demand, g) dt, by queue.
    Borrowed: ∫ max(0, use - g) dt. Delivered (Jain): x = ∫ use dt / ∫ min(demand, g) dt of each queue, at most 1.
    Loss of capacity: ∫ idle GPUs dt while a waiting job asks for no more than is idle and than its queue may
    hold, over capacity x the time between the first and the last submission.
    Reclaim latency: first start - submission of jobs that came within their queue's guarantee and found fewer
    idle GPUs than they ask for.
    Finish-time fairness: (end - submission) / the same when the queue runs alone on its guarantee.
    Sources: Feitelson's loss of capacity; Jain, Chiu and Hawe, DEC-TR-301, 1984; Mahajan and others, "Themis",
    NSDI 2020, for finish-time fairness.

    Args:
        jobs: of the replay.
        capacity_gpus: of the cluster.
        promises: of every queue that the jobs name.
        disruption: what reclaiming cost.
        alone_s: submission to end of jobs by id when their queue runs alone; jobs without one are left out.
    """
    queues = {name: _Queue(promises[name]) for name in sorted({job.queue for job in jobs})}
    lost_s, latencies = _walk(jobs, capacity_gpus, queues)
    ratios = sorted(
        (job.end_s - job.submit_s) / max(1.0, alone_s[job.id]) for job in jobs if job.id in alone_s
    )
    submits_s = [job.submit_s for job in jobs] or [0.0]
    return {
        "guarantee_shortfall_ratio": {
            name: _ratio(queue.short, queue.owed) for name, queue in queues.items()
        },
        "reclaim_latency_s": {
            "jobs": len(latencies),
            "p50": rounded(percentile(latencies, 0.5)),
            "p99": rounded(percentile(latencies, 0.99)),
        },
        "borrowed_gpu_hours": rounded(sum(queue.borrowed for queue in queues.values()) / HOUR_S),
        "lost_gpu_hours": rounded(disruption.lost_gpu_seconds / HOUR_S),
        "preemptions_per_1000_jobs": _ratio(1_000 * disruption.preemptions, len(jobs)),
        "longest_wait_s": rounded(max((wait_s(job) for job in jobs), default=0.0)),
        "loss_of_capacity_ratio": _ratio(lost_s, capacity_gpus * (max(submits_s) - min(submits_s))),
        "jain_delivered": rounded(jain([min(1.0, q.delivered / q.owed) for q in queues.values() if q.owed])),
        "finish_time_fairness": {
            "jobs": len(ratios),
            "p99": rounded(percentile(ratios, 0.99)),
            "max": rounded(ratios[-1] if ratios else 0.0),
            "share_above_1_05": _ratio(sum(ratio > LATE for ratio in ratios), len(ratios)),
        },
    }


def _walk(
    jobs: Sequence[Ended], capacity_gpus: int, queues: Mapping[str, _Queue]
) -> tuple[float, list[float]]:
    """Fill the queues' integrals; gives the idle GPU-seconds that a waiting job could have had, and latencies."""
    last_s = max((job.submit_s for job in jobs), default=0.0)
    before_s, idle, lost = 0.0, capacity_gpus, 0.0
    latencies: list[float] = []
    for at_s, kind, job in _moments(jobs):
        if at_s > before_s:
            for queue in queues.values():
                queue.pass_time(at_s - before_s)
            if before_s < last_s and any(queue.could_start(idle) for queue in queues.values()):
                lost += idle * (min(at_s, last_s) - before_s)
            before_s = at_s
        queue = queues[job.queue]
        queue.take(kind, job.gpus)
        if kind is _Kind.SUBMIT and queue.asked <= queue.promise.guarantee_gpus and idle < job.gpus:
            latencies.append(job.spans[0][0] - job.submit_s)
        idle = capacity_gpus - sum(queue.used for queue in queues.values())
    return lost, sorted(latencies)


def _moments(jobs: Sequence[Ended]) -> Iterator[tuple[float, _Kind, Ended]]:
    """All that happened, by instant; at one instant ends, then submissions, then starts, jobs in their order."""
    found: list[tuple[float, _Kind, int]] = []
    for number, job in enumerate(jobs):
        found.append((job.submit_s, _Kind.SUBMIT, number))
        for place, (start_s, end_s) in enumerate(job.spans, start=1):
            found.append((start_s, _Kind.START, number))
            found.append((end_s, _Kind.END if place == len(job.spans) else _Kind.STOP, number))
    for at_s, kind, number in sorted(found):
        yield at_s, kind, jobs[number]


def _ratio(part: float, whole: float) -> float:
    return rounded(part / whole) if whole else 0.0
