"""Use of every queue against its nominal quota, and nominal quota that others hold while it is wanted.

Read from the tables, so a restart loses nothing. Definitions, which hold with and without borrowing:

- *entitled waiting*: of the jobs that could start now (not held, not backing off, and waiting for the machine rather
  than for their grant), in the order of priority and age, those that fit in what the queue's nominal leaves beside
  what it holds; a job that does not fit is passed over. A gang larger than that is never entitled.
- *violated*: of these GPUs, as many as other queues together hold beyond their own nominal. While the planner takes
  borrowed GPUs back this is above 0 for a notice's time; that it stays means that somebody's quota is kept from him.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from prometheus_client.core import GaugeMetricFamily, Metric
from sqlalchemy import func, or_, select
from sqlalchemy.orm import Session

from metrics.bounded import bounded
from quota.policy import policy_queue
from quota.service import NoPolicyError, policy_in_force
from scheduler.figures import queue_use
from scheduler.model import JobState, ReasonCode
from scheduler.tables import AllocationRow, AttemptRow, GpuRow, JobRow

MAX_WAITING: Final = 100_000
"""Waiting jobs looked at in one reading: those first in order; a queue's entitled jobs are among its first."""

_FOR_THE_MACHINE: Final = frozenset(
    code.value
    for code in (
        ReasonCode.QUEUE_LIMIT,
        ReasonCode.BORROWING_LIMIT,
        ReasonCode.WAITING_TURN,
        ReasonCode.NO_CAPACITY,
        ReasonCode.FRAGMENTED,
        ReasonCode.FRAGMENTED_BY_ENTITLED,
        ReasonCode.RECLAIMING,
        ReasonCode.RESERVED_FOR,
    )
)
"""Reasons of jobs that would start if there were room; the others wait for a grant, a date or a person."""


@dataclass(frozen=True, slots=True)
class QueueClaim:
    """A queue's quota in GPUs: nominal, held, and what its entitled jobs wait for."""

    nominal: int
    held: int
    entitled_waiting: int = 0


def entitled_waiting(nominal: int, held: int, waiting: Iterable[int]) -> int:
    """GPUs of waiting jobs that fit in what the nominal leaves; one that does not fit is passed over.

    Args:
        nominal: of the queue.
        held: by the queue's running jobs.
        waiting: GPUs of each job that could start, in the queue's order.
    """
    room = max(0, nominal - held)
    taken = 0
    for gpus in waiting:
        if gpus <= room - taken:
            taken += gpus
    return taken


def violated(claims: Mapping[str, QueueClaim]) -> dict[str, int]:
    """GPUs of each queue's entitled waiting jobs that other queues hold beyond their own nominal."""
    beyond = {queue: max(0, claim.held - claim.nominal) for queue, claim in claims.items()}
    total = sum(beyond.values())
    return {queue: min(claim.entitled_waiting, total - beyond[queue]) for queue, claim in claims.items()}


def quota_families(session: Session, at: datetime) -> Iterator[Metric]:
    """The families of quota use.

    Args:
        session: a session.
        at: now, aware UTC: which policy is in force.
    """
    claims = _claims(session, at)
    held = _held(session)
    labels = bounded({*claims, *(queue for queue, _ in held)})
    yield _of_queues(
        "kezek_queue_nominal_gpus",
        "Nominal quota of the queue in GPUs of any flavor, at the capacity now in service.",
        {queue: claim.nominal for queue, claim in claims.items()},
        labels,
    )
    yield _of_queues(
        "kezek_queue_entitled_waiting_gpus",
        "GPUs of jobs that could start and fit in what the queue's nominal quota leaves.",
        {queue: claim.entitled_waiting for queue, claim in claims.items()},
        labels,
    )
    yield _of_queues(
        "kezek_queue_entitlement_violated_gpus",
        "Of these GPUs, those that other queues hold beyond their own nominal quota.",
        violated(claims),
        labels,
    )
    family = GaugeMetricFamily(
        "kezek_queue_held_gpus", "GPUs that the queue's jobs hold, by flavor.", labels=["queue", "flavor"]
    )
    sums: dict[tuple[str, str], int] = {}
    for (queue, flavor), gpus in held.items():
        key = (labels[queue], flavor)
        sums[key] = sums.get(key, 0) + gpus
    for key, gpus in sorted(sums.items()):
        family.add_metric(list(key), gpus)
    yield family


def _of_queues(name: str, text: str, values: Mapping[str, int], labels: Mapping[str, str]) -> Metric:
    family = GaugeMetricFamily(name, text, labels=["queue"])
    sums: dict[str, int] = {}
    for queue, value in values.items():
        sums[labels[queue]] = sums.get(labels[queue], 0) + value
    for label, value in sorted(sums.items()):
        family.add_metric([label], value)
    return family


def _claims(session: Session, at: datetime) -> dict[str, QueueClaim]:
    """Every queue of the policy in force; none without one."""
    try:
        policy = policy_in_force(session, at)
    except NoPolicyError:
        return {}
    waiting: dict[str, list[int]] = {}
    for queue, gpus in _could_start(session, at):
        waiting.setdefault(policy_queue(policy, queue), []).append(gpus)
    return {
        use.path: QueueClaim(
            use.nominal,
            use.used_gpus,
            entitled_waiting(use.nominal, use.used_gpus, waiting.get(use.path, ())),
        )
        for use in queue_use(session, policy, at)
        if use.is_queue
    }


def _could_start(session: Session, at: datetime) -> list[tuple[str, int]]:
    """Queue and GPUs of each waiting job that only the machine keeps from starting, in order."""
    rows = session.execute(
        select(JobRow.queue, JobRow.gpus)
        .where(
            JobRow.state == JobState.PENDING.value,
            JobRow.is_held.is_(False),
            or_(JobRow.back_off_until.is_(None), JobRow.back_off_until <= at),
            JobRow.reason.in_(_FOR_THE_MACHINE),
        )
        .order_by(JobRow.priority.desc(), JobRow.id)
        .limit(MAX_WAITING)
    )
    return [(queue, gpus) for queue, gpus in rows]


def _held(session: Session) -> dict[tuple[str, str], int]:
    """GPUs held by queue and flavor."""
    rows = session.execute(
        select(JobRow.queue, GpuRow.flavor, func.count())
        .select_from(AllocationRow)
        .join(GpuRow, GpuRow.uuid == AllocationRow.gpu_uuid)
        .join(AttemptRow, AttemptRow.id == AllocationRow.attempt_id)
        .join(JobRow, JobRow.id == AttemptRow.job_id)
        .where(AllocationRow.released_at.is_(None))
        .group_by(JobRow.queue, GpuRow.flavor)
    )
    return {(queue, flavor): gpus for queue, flavor, gpus in rows}
