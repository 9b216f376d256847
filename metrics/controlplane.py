"""Control-plane metrics: what the scheduler's tables say when they are scraped.

Every figure is read from the database, so any process may serve it and a restart loses nothing; families are shared
by the scrapes of `metrics.cached.CACHE_S`, for the page may need no token and must not let anybody load the database.
Label values are queues of the policy, states, flavors and quantiles: their number is bounded by the policy and the
inventory, never by jobs or users. The labels job, instance, pod, namespace and service are the scraper's own and not
used here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from sqlalchemy import Engine, func, select, text
from sqlalchemy.orm import Session

from metrics.bounded import bounded
from metrics.cached import CachedCollector
from metrics.quota_figures import quota_families
from quota.service import NoPolicyError, policy_in_force
from scheduler.apply import LEASE
from scheduler.fields import integer
from scheduler.figures import cluster, percentile
from scheduler.model import JobState
from scheduler.replay import CYCLE
from scheduler.snapshot import LIVE
from scheduler.tables import JobRow
from store import clock
from store.engine import snapshot
from store.journal import of_kind
from store.tables import JournalRow, LeaseRow

WAIT_BUCKETS_S: Final = (1, 5, 15, 60, 300, 900, 3_600, 4 * 3_600, 12 * 3_600, 86_400, 3 * 86_400, 7 * 86_400)
"""Upper bounds of the wait histogram [s]: from an idle cluster's second to the week after which a job has aged."""

CYCLES: Final = 500
"""Latest cycles with effect over which the cycle's duration is told."""

QUANTILES: Final = (50, 95, 99)
"""Percentiles of the cycle's duration."""

STATES: Final = (JobState.PENDING.value, *LIVE)
"""States in which jobs are counted: those that wait and those that hold GPUs."""


class ControlPlane(CachedCollector):
    """Collector over the tables; register it where `/metrics` is served.

    Cost of a reading: O(jobs) for the cumulative figures (two grouped scans), everything else is small.

    Args:
        engine: the database.
        elapsed_s: a clock that never goes back [s].
    """

    def __init__(self, engine: Engine, *, elapsed_s: Callable[[], float] = time.monotonic) -> None:
        super().__init__(elapsed_s)
        self._engine = engine

    def read(self) -> tuple[Metric, ...]:
        """Every family, of one snapshot of the database."""
        at = clock.now()
        with snapshot(self._engine) as session:
            queues = _queues_in_force(session, at)
            return (
                _queue_jobs(session, queues),
                _queue_wait(session),
                _device_seconds(session, queues),
                _gpus(session),
                _cycle_duration(session),
                _unsealed(session),
                _epoch(session),
                *quota_families(session, at),
            )


def _queues_in_force(session: Session, at: datetime) -> list[str]:
    """Queues of the policy in force: what they hold is known even when it is nothing."""
    try:
        policy = policy_in_force(session, at)
    except NoPolicyError:
        return []
    parents = {node.parent for node in policy.tree}
    return [node.path for node in policy.tree if node.path not in parents]


def _queue_jobs(session: Session, queues: Iterable[str]) -> Metric:
    family = GaugeMetricFamily(
        "kezek_queue_jobs", "Jobs that wait or hold GPUs, by queue and state.", labels=["queue", "state"]
    )
    rows = session.execute(
        select(JobRow.queue, JobRow.state, func.count().label("jobs"))
        .where(JobRow.state.in_(STATES))
        .group_by(JobRow.queue, JobRow.state)
    ).all()
    labels = bounded([*queues, *(row.queue for row in rows)])
    found = {(label, state): 0 for label in labels.values() for state in STATES}
    for row in rows:
        found[labels[row.queue], row.state] += row.jobs
    for (queue, state), jobs in sorted(found.items()):
        family.add_metric([queue, state], jobs)
    return family


def _queue_wait(session: Session) -> Metric:
    """Wait from submission to the first start, of every job that ever started: it only grows."""
    family = HistogramMetricFamily(
        "kezek_queue_wait_seconds", "Wait from submission to first start, by queue.", labels=["queue"]
    )
    wait_s = func.greatest(0, func.extract("epoch", JobRow.first_started_at - JobRow.submitted_at))
    counts = [func.count().filter(wait_s <= bound) for bound in WAIT_BUCKETS_S]
    rows = session.execute(
        select(JobRow.queue, func.sum(wait_s), func.count(), *counts)
        .where(JobRow.first_started_at.is_not(None))
        .group_by(JobRow.queue)
    ).all()
    labels = bounded(str(row[0]) for row in rows)
    found: dict[str, list[float]] = {}
    for row in rows:
        figures = [float(value) for value in row[1:]]
        before = found.get(labels[row[0]], [0.0] * len(figures))
        found[labels[row[0]]] = [old + new for old, new in zip(before, figures, strict=True)]
    for queue, (total_s, jobs, *buckets) in sorted(found.items()):
        bounds = [*map(str, WAIT_BUCKETS_S), "+Inf"]
        family.add_metric([queue], list(zip(bounds, [*buckets, jobs], strict=True)), total_s)
    return family


def _device_seconds(session: Session, queues: Iterable[str]) -> Metric:
    family = CounterMetricFamily(
        "kezek_device_seconds", "Device-seconds charged, by queue.", labels=["queue"]
    )
    rows = session.execute(
        select(JobRow.queue, func.sum(JobRow.gpu_seconds).label("used_s")).group_by(JobRow.queue)
    ).all()
    labels = bounded([*queues, *(row.queue for row in rows)])
    found = dict.fromkeys(labels.values(), 0)
    for row in rows:
        found[labels[row.queue]] += int(row.used_s)
    for queue, used_s in sorted(found.items()):
        family.add_metric([queue], used_s)
    return family


def _gpus(session: Session) -> Metric:
    family = GaugeMetricFamily(
        "kezek_gpus",
        "GPUs of the inventory: busy (held by an attempt), free, or down.",
        labels=["state", "flavor", "simulated"],
    )
    found: dict[tuple[str, str, str], int] = {}
    for node in cluster(session).nodes:
        for state, gpus in (("busy", node.busy), ("free", node.free), ("down", node.down)):
            key = (state, node.flavor, str(node.is_simulated).lower())
            found[key] = found.get(key, 0) + gpus
    for labels, gpus in sorted(found.items()):
        family.add_metric(list(labels), gpus)
    return family


def _cycle_duration(session: Session) -> Metric:
    """Time to read and plan, as the records of the latest CYCLES cycles with effect say; absent before the first."""
    family = GaugeMetricFamily(
        "kezek_cycle_duration_seconds",
        f"Time to read and plan over the latest {CYCLES} cycles with effect, by quantile.",
        labels=["quantile"],
    )
    durations_ms = sorted(
        integer(record.data["load_ms"]) + integer(record.data["plan_ms"])
        for record in of_kind(session, CYCLE, limit=CYCLES)
    )
    for percent in QUANTILES:
        duration_ms = percentile(durations_ms, percent)
        if duration_ms is not None:
            family.add_metric([str(percent / 100)], duration_ms / 1_000)
    return family


def _unsealed(session: Session) -> Metric:
    horizon = text(
        "journal.xid >= coalesce((SELECT horizon FROM journal_segments ORDER BY number DESC LIMIT 1), '0'::xid8)"
    )
    unsealed = session.scalar(select(func.count()).select_from(JournalRow).where(horizon)) or 0
    return GaugeMetricFamily(
        "kezek_journal_unsealed_records",
        "Journal records that the sealer has not chained yet.",
        value=unsealed,
    )


def _epoch(session: Session) -> Metric:
    """Absent before the first scheduler."""
    family = GaugeMetricFamily(
        "kezek_scheduler_epoch",
        "Fencing epoch of the scheduler's lease: it grows with each new leader.",
        labels=[],
    )
    epoch = session.scalar(select(LeaseRow.epoch).where(LeaseRow.name == LEASE))
    if epoch is not None:
        family.add_metric([], epoch)
    return family
