"""What was observed of jobs, and how sectors, categories and projects used the machine. Reads only.

Coverage stands beside every figure: what was not observed is not part of it, and no data is None.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.orm import Session

from metrics.efficiency import Fold, Summary, merge, summarise
from metrics.folds import from_json
from metrics.tables import AttemptTelemetryRow
from scheduler.tables import AllocationRow, AttemptRow, JobRow
from tenants.tables import OrganisationRow, ProjectRow


class Dimension(StrEnum):
    """By what use is told."""

    SECTOR = "sector"
    CATEGORY = "category"
    PROJECT = "project"


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """Use by one group of attempts.

    Attributes:
        name: The sector, category or project.
        attempts: How many.
        charged_s: Device-seconds charged to grants: the account's figure.
        summary: Held, observed, useful, idle, energy, with coverage.
    """

    name: str
    attempts: int
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


def use_by(session: Session, dimension: Dimension, since: datetime, until: datetime) -> tuple[Use, ...]:
    """Use by attempts that ended in a period, by name.

    A fold cannot be cut at a date: an attempt counts whole, in the period in which it ended.

    Args:
        session: A session.
        dimension: By what.
        since: First moment of the period.
        until: First moment after it.
    """
    name = _name(dimension)
    rows = session.execute(
        select(AttemptTelemetryRow.fold, _held_s(until), name, AttemptRow.used_s)
        .select_from(AttemptRow)
        .join(JobRow, JobRow.id == AttemptRow.job_id)
        .join(ProjectRow, ProjectRow.id == JobRow.project_id)
        .join(OrganisationRow, OrganisationRow.id == ProjectRow.organisation_id)
        .outerjoin(AttemptTelemetryRow, AttemptTelemetryRow.attempt_id == AttemptRow.id)
        .where(AttemptRow.ended_at >= since, AttemptRow.ended_at < until)
    ).all()
    groups: dict[str, list[tuple[object, float, int | None]]] = defaultdict(list)
    for fold, held_s, group, charged_s in rows:
        groups[group].append((fold, held_s, charged_s))
    return tuple(
        Use(
            name=group,
            attempts=len(members),
            charged_s=sum(charged_s or 0 for _, _, charged_s in members),
            summary=_summary((fold, held_s) for fold, held_s, _ in members),
        )
        for group, members in sorted(groups.items())
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
