"""The public figures from the database: the cells of each sector and category over the last 30 days, before merging."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final, Literal

from sqlalchemy import case, func, select, true
from sqlalchemy.orm import Session

from metrics.service import Dimension, use_by
from products.history import verdicts
from products.opendata import Cell, OpenData
from quota.model import EntryKind
from quota.tables import GrantRow, LedgerEntryRow
from scheduler.model import JobState
from scheduler.snapshot import LIVE
from scheduler.tables import JobRow, NodeRow
from tenants.model import Category, Sector
from tenants.tables import OrganisationRow, ProjectRow

PERIOD_D: Final = 30
"""Days that the sums are over: long enough that no single job is told."""

Of = Literal["sector", "category"]


@dataclass(slots=True)
class _Use:
    """What one organisation did; adds up."""

    sector: str
    category: str
    has_jobs: bool = False
    jobs_running: int = 0
    jobs_waiting: int = 0
    gpus_busy: int = 0
    gpu_seconds: int = 0
    wait_seconds_sum: int = 0
    jobs_started: int = 0
    busy_seconds: list[int] = field(default_factory=list)
    covered_seconds: int = 0


def gather(session: Session, as_of: datetime) -> OpenData:
    """The public figures as of an instant. A few sums over jobs and ledger, and every product.

    Args:
        session: an open read; a snapshot, so that all figures are of one moment.
        as_of: aware instant, now: what runs and waits is read as it is.
    """
    since = as_of - timedelta(days=PERIOD_D)
    uses = _uses(session, since, as_of)
    judged = [verdict for verdict in verdicts(session, as_of) if verdict.counts]
    products: Mapping[Of, list[str]] = {
        "sector": [str(verdict.history.sector) for verdict in judged],
        "category": [str(verdict.history.category) for verdict in judged],
    }
    return OpenData(
        as_of=as_of,
        starts_at=since,
        is_simulated=bool(session.scalar(select(func.bool_or(NodeRow.is_simulated)))),
        dimensions=(
            ("sector", _cells("sector", Sector, uses, products["sector"])),
            ("category", _cells("category", Category, uses, products["category"])),
        ),
    )


def _uses(session: Session, since: datetime, as_of: datetime) -> dict[str, _Use]:
    uses: dict[str, _Use] = {}
    projects: dict[str, str] = {}
    for project, organisation, sector, category in session.execute(
        select(ProjectRow.slug, OrganisationRow.id, OrganisationRow.sector, OrganisationRow.category).join(
            OrganisationRow, OrganisationRow.id == ProjectRow.organisation_id
        )
    ):
        uses.setdefault(str(organisation), _Use(sector, category))
        projects[project] = str(organisation)
    _add_jobs(session, uses, since, as_of)
    _add_charges(session, uses, since, as_of)
    for use in use_by(session, Dimension.PROJECT, since, as_of + timedelta(microseconds=1), visible=true()):
        found = uses[projects[use.name]]
        if use.summary.useful_s is not None:
            found.busy_seconds.append(round(use.summary.useful_s))
            found.covered_seconds += round(use.summary.observed_s)
    return uses


def _add_jobs(session: Session, uses: Mapping[str, _Use], since: datetime, as_of: datetime) -> None:
    is_live = JobRow.state.in_(LIVE)
    is_waiting = JobRow.state == JobState.PENDING.value
    is_started = (JobRow.first_started_at >= since) & (JobRow.first_started_at <= as_of)
    wait_s = func.greatest(
        0, func.floor(func.extract("epoch", JobRow.first_started_at - JobRow.submitted_at))
    )
    rows = session.execute(
        select(
            ProjectRow.organisation_id,
            func.count().filter(is_live),
            func.count().filter(is_waiting),
            func.coalesce(func.sum(JobRow.gpus).filter(is_live), 0),
            func.count().filter(is_started),
            func.coalesce(func.sum(wait_s).filter(is_started), 0),
        )
        .join(JobRow, JobRow.project_id == ProjectRow.id)
        .where(is_live | is_waiting | is_started | (JobRow.finished_at >= since))
        .group_by(ProjectRow.organisation_id)
    )
    for organisation, running, waiting, gpus, started, waited_s in rows:
        use = uses[str(organisation)]
        use.has_jobs = True
        use.jobs_running, use.jobs_waiting, use.gpus_busy = running, waiting, int(gpus)
        use.jobs_started, use.wait_seconds_sum = started, int(waited_s)


def _add_charges(session: Session, uses: Mapping[str, _Use], since: datetime, as_of: datetime) -> None:
    charged = case(
        (LedgerEntryRow.kind == EntryKind.POSTED.value, LedgerEntryRow.amount_s),
        (LedgerEntryRow.kind == EntryKind.REVERSED.value, -LedgerEntryRow.amount_s),
        else_=0,
    )
    rows = session.execute(
        select(ProjectRow.organisation_id, func.sum(charged))
        .join(GrantRow, GrantRow.project_id == ProjectRow.id)
        .join(LedgerEntryRow, LedgerEntryRow.grant_id == GrantRow.id)
        .where(LedgerEntryRow.at >= since, LedgerEntryRow.at <= as_of)
        .group_by(ProjectRow.organisation_id)
    )
    for organisation, charged_s in rows:
        uses[str(organisation)].gpu_seconds = int(charged_s)


def _cells(
    dimension: Of, keys: Iterable[Sector] | Iterable[Category], uses: Mapping[str, _Use], products: list[str]
) -> tuple[Cell, ...]:
    cells = []
    for key in (str(key) for key in keys):
        of_key = {name: use for name, use in uses.items() if getattr(use, dimension) == key}
        busy = [value for use in of_key.values() for value in use.busy_seconds]
        cells.append(
            Cell(
                key=key,
                organisations=frozenset(name for name, use in of_key.items() if use.has_jobs),
                jobs_running=sum(use.jobs_running for use in of_key.values()),
                jobs_waiting=sum(use.jobs_waiting for use in of_key.values()),
                gpus_busy=sum(use.gpus_busy for use in of_key.values()),
                gpu_seconds=sum(use.gpu_seconds for use in of_key.values()),
                wait_seconds_sum=sum(use.wait_seconds_sum for use in of_key.values()),
                jobs_started=sum(use.jobs_started for use in of_key.values()),
                products=products.count(key),
                busy_seconds=sum(busy) if busy else None,
                covered_seconds=sum(use.covered_seconds for use in of_key.values()),
            )
        )
    return tuple(cells)
