"""Who holds which GPU, and what projects have left: the control plane's side of the join with telemetry.

``kezek_gpu_allocation_info`` has one series per held GPU, so the inventory bounds it; job and project stand on
it alone and telemetry is joined by UUID. Balances are shown for projects with a grant in force, up to
``MAX_PROJECTS``; how many were left out is shown too. A reading serves the scrapes of ``metrics.cached.CACHE_S``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Final

from prometheus_client.core import GaugeMetricFamily, Metric
from sqlalchemy import Engine, func, select
from sqlalchemy.orm import Session

from metrics.cached import CachedCollector
from quota.tables import BalanceRow, GrantRow
from scheduler.tables import AllocationRow, AttemptRow, JobRow
from store.engine import snapshot
from tenants.tables import OrganisationRow, ProjectRow

#: Projects whose balances are shown: three series each, as many as a dashboard or an alert can make use of.
MAX_PROJECTS: Final = 500


class Allocated(CachedCollector):
    """Collector over the tables; register it where ``/metrics`` is served.

    Args:
        engine: The platform's database.
        clock: Now, aware UTC: which grants are in force.
        elapsed_s: A clock that never goes back [s].
    """

    def __init__(
        self,
        engine: Engine,
        clock: Callable[[], datetime],
        *,
        elapsed_s: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(elapsed_s)
        self._engine = engine
        self._clock = clock

    def read(self) -> tuple[Metric, ...]:
        """Every family, of one snapshot of the database."""
        with snapshot(self._engine) as session:
            return (_allocations(session), *_balances(session, self._clock()))


def _allocations(session: Session) -> Metric:
    family = GaugeMetricFamily(
        "kezek_gpu_allocation_info",
        "Who holds the GPU; always 1.",
        labels=["uuid", "node", "attempt", "job_id", "project", "queue", "sector", "category"],
    )
    rows = session.execute(
        select(
            AllocationRow.gpu_uuid,
            AllocationRow.node,
            AllocationRow.attempt_id,
            JobRow.id,
            ProjectRow.slug,
            JobRow.queue,
            OrganisationRow.sector,
            OrganisationRow.category,
        )
        .join(AttemptRow, AttemptRow.id == AllocationRow.attempt_id)
        .join(JobRow, JobRow.id == AttemptRow.job_id)
        .join(ProjectRow, ProjectRow.id == JobRow.project_id)
        .join(OrganisationRow, OrganisationRow.id == ProjectRow.organisation_id)
        .where(AllocationRow.released_at.is_(None))
        .order_by(AllocationRow.gpu_uuid)
    )
    for row in rows:
        family.add_metric([str(value) for value in row], 1.0)
    return family


def _balances(session: Session, at: datetime) -> Iterator[Metric]:
    labels = ("project", "flavor")
    granted = GaugeMetricFamily(
        "kezek_project_granted_device_seconds", "Device-seconds of the grants in force.", labels=labels
    )
    used = GaugeMetricFamily(
        "kezek_project_used_device_seconds", "Device-seconds used of the grants in force.", labels=labels
    )
    remaining = GaugeMetricFamily(
        "kezek_project_remaining_device_seconds",
        "Device-seconds of the grants in force that are neither used nor claimed by a running job.",
        labels=labels,
    )
    left_out = GaugeMetricFamily(
        "kezek_projects_left_out", f"Projects with a grant in force beyond the {MAX_PROJECTS} shown."
    )
    rows = session.execute(
        select(
            ProjectRow.slug,
            GrantRow.flavor,
            func.sum(BalanceRow.granted_s),
            func.sum(BalanceRow.used_s),
            func.sum(BalanceRow.remaining_s),
        )
        .join(GrantRow, GrantRow.id == BalanceRow.grant_id)
        .join(ProjectRow, ProjectRow.id == GrantRow.project_id)
        .where(GrantRow.starts_at <= at, GrantRow.ends_at > at)
        .group_by(ProjectRow.slug, GrantRow.flavor)
        .order_by(ProjectRow.slug, GrantRow.flavor)
    ).all()
    projects = sorted({str(row[0]) for row in rows})
    shown = frozenset(projects[:MAX_PROJECTS])
    for project, flavor, granted_s, used_s, remaining_s in rows:
        if project in shown:
            granted.add_metric([project, flavor], float(granted_s))
            used.add_metric([project, flavor], float(used_s))
            remaining.add_metric([project, flavor], float(remaining_s))
    left_out.add_metric([], len(projects) - len(shown))
    yield from (granted, used, remaining, left_out)
