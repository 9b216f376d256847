"""What was observed of jobs, and how sectors, categories and projects used the machine. Reads only.

Coverage stands beside every figure: what was not observed is not part of it, and no data is None.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Final

from sqlalchemy import ColumnElement, Select, func, select
from sqlalchemy.orm import Session

from metrics.efficiency import Fold, Summary, merge, summarise
from metrics.folds import from_json
from metrics.tables import AttemptTelemetryRow
from scheduler.tables import AllocationRow, AttemptRow, JobRow, NodeRow
from tenants.tables import OrganisationRow, ProjectRow

#: Attempts read, and folds merged, at once.
BATCH: Final = 500


class Dimension(StrEnum):
    """By what use is told."""

    SECTOR = "sector"
    CATEGORY = "category"
    PROJECT = "project"


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """Use by one group of attempts.

    Attributes:
        name: The sector, category, project or product.
        attempts: How many.
        is_simulated: Whether any of their GPUs is simulated.
        charged_s: Device-seconds charged to grants: the account's figure.
        summary: Held, observed, useful, idle, energy, with coverage.
    """

    name: str
    attempts: int
    is_simulated: bool
    charged_s: int
    summary: Summary


def job_summary(session: Session, job_id: int, at: datetime) -> Summary:
    """What was observed of a job over all its attempts.

    The caller has checked that the job may be seen.

    Args:
        session: A session.
        job_id: The job.
        at: Now: GPUs still held count as held until then.
    """
    rows = session.execute(
        select(AttemptTelemetryRow.fold, _held_s(at))
        .select_from(AttemptRow)
        .outerjoin(AttemptTelemetryRow, AttemptTelemetryRow.attempt_id == AttemptRow.id)
        .where(AttemptRow.job_id == job_id)
    ).all()
    return _summary((row[0], row[1]) for row in rows)


def is_simulated(session: Session, job_id: int) -> bool:
    """Whether any GPU a job held was simulated; of a job that held none yet, whether any of the machine is."""
    held = session.scalars(
        select(NodeRow.is_simulated)
        .join(AllocationRow, AllocationRow.node == NodeRow.name)
        .join(AttemptRow, AttemptRow.id == AllocationRow.attempt_id)
        .where(AttemptRow.job_id == job_id)
        .distinct()
    ).all()
    return any(held or session.scalars(select(NodeRow.is_simulated).distinct()))


def use_by(
    session: Session,
    dimension: Dimension,
    since: datetime,
    until: datetime,
    *,
    visible: ColumnElement[bool],
) -> tuple[Use, ...]:
    """Use by attempts that ended in a period, by name.

    A fold cannot be cut at a date: an attempt counts whole, in the period in which it ended.

    Args:
        session: A session.
        dimension: By what.
        since: First moment of the period.
        until: First moment after it.
        visible: Which projects, from ``tenants.authz.visible_to`` of ``JobRow.project_id``.
    """
    statement = (
        ended_attempts(_name(dimension), since, until)
        .join(ProjectRow, ProjectRow.id == JobRow.project_id)
        .join(OrganisationRow, OrganisationRow.id == ProjectRow.organisation_id)
        .where(visible)
    )
    return grouped(session, statement)


Attempts = Select[str, dict[str, object], float, int | None, bool]
"""Attempts with the name of their group, fold, GPU-seconds held and charged, and whether a GPU is simulated."""


def ended_attempts(name: ColumnElement[str], since: datetime, until: datetime) -> Attempts:
    """Attempts that ended in a period, joined with their jobs, for ``grouped``.

    Args:
        name: The name of the group that an attempt belongs to.
        since: First moment of the period.
        until: First moment after it.
    """
    simulated = (
        select(AllocationRow.attempt_id)
        .join(NodeRow, NodeRow.name == AllocationRow.node)
        .where(AllocationRow.attempt_id == AttemptRow.id, NodeRow.is_simulated)
        .correlate(AttemptRow)
        .exists()
    )
    return (
        select(name, AttemptTelemetryRow.fold, _held_s(until), AttemptRow.used_s, simulated)
        .select_from(AttemptRow)
        .join(JobRow, JobRow.id == AttemptRow.job_id)
        .outerjoin(AttemptTelemetryRow, AttemptTelemetryRow.attempt_id == AttemptRow.id)
        .where(AttemptRow.ended_at >= since, AttemptRow.ended_at < until)
    )


@dataclass(slots=True)
class _Group:
    """Sums over a group's attempts; folds are merged by the batch, so that a year of them needs little memory."""

    attempts: int = 0
    is_simulated: bool = False
    charged_s: int = 0
    held_s: float = 0.0
    folds: list[Fold] = field(default_factory=list)

    def add(self, fold: object, held_s: float, charged_s: int | None, *, is_simulated: bool) -> None:
        self.attempts += 1
        self.is_simulated |= is_simulated
        self.charged_s += charged_s or 0
        self.held_s += float(held_s)
        if isinstance(fold, dict):
            self.folds.append(from_json(fold))
        if len(self.folds) >= BATCH:
            self.folds = [merge(self.folds)]


def grouped(session: Session, attempts: Attempts) -> tuple[Use, ...]:
    """Use by the groups of attempts, by name.

    Args:
        session: A session.
        attempts: What ``ended_attempts`` made, joined and narrowed further.
    """
    groups: dict[str, _Group] = defaultdict(_Group)
    for name, fold, held_s, charged_s, is_simulated in session.execute(
        attempts, execution_options={"yield_per": BATCH}
    ):
        groups[name].add(fold, held_s, charged_s, is_simulated=is_simulated)
    return tuple(
        Use(
            name=name,
            attempts=group.attempts,
            is_simulated=group.is_simulated,
            charged_s=group.charged_s,
            summary=summarise(merge(group.folds), group.held_s),
        )
        for name, group in sorted(groups.items())
    )


def _name(dimension: Dimension) -> ColumnElement[str]:
    match dimension:
        case Dimension.SECTOR:
            return OrganisationRow.sector.expression
        case Dimension.CATEGORY:
            return OrganisationRow.category.expression
        case Dimension.PROJECT:
            return ProjectRow.slug.expression


def _held_s(at: datetime) -> ColumnElement[float]:
    """GPU-seconds that an attempt held, until now if it still does."""
    held = func.extract("epoch", func.coalesce(AllocationRow.released_at, at) - AllocationRow.allocated_at)
    return (
        select(func.coalesce(func.sum(func.greatest(0, held)), 0))
        .where(AllocationRow.attempt_id == AttemptRow.id)
        .correlate(AttemptRow)
        .scalar_subquery()
    )


def _summary(attempts: Iterable[tuple[object, float]]) -> Summary:
    """Of the stored folds and the seconds held; an attempt never observed has no fold, and still held its GPUs."""
    known = tuple(attempts)
    folds: list[Fold] = [from_json(fold) for fold, _ in known if isinstance(fold, dict)]
    return summarise(merge(folds), math.fsum(float(held_s) for _, held_s in known))
