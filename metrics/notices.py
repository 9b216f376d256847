"""What is shown of idle jobs: notices to their users, and to operators every job that stands idle now. Reads only.

What a dry run noted is for those who administer the platform; a user is told what is meant in earnest.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from metrics import idle_policy
from metrics.idle import Exemption, Leave, Step, Take, Watch
from metrics.idle_watch import Running, running
from metrics.tables import IdleNoticeRow
from scheduler.tables import JobRow
from tenants.authz import visible_to
from tenants.model import Principal
from tenants.tables import ProjectRow

MAX_PAGE: Final = 200
"""Notices listed at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """A step taken against an idle job.

    Attributes:
        idle_s: How long `idle_gpus` of its `gpus` had stood idle.
        next_step: What follows at `next_at` if they stay so; None after the last step.
        returned_s: Device-seconds that went back to the grant; of the last step only.
        cleared_at: When the GPUs were seen in use again; None while the notice stands.
    """

    id: int
    job_id: int
    attempt_id: str
    project: str
    step: Step
    at: datetime
    idle_s: int
    idle_gpus: int
    gpus: int
    next_step: Step | None
    next_at: datetime | None
    returned_s: int | None
    cleared_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class IdleJob:
    """A running job whose GPUs stand idle now.

    Attributes:
        idle_since: Since when so few of its GPUs are busy that it counts as idle.
        taken: Steps taken in this stretch: told, or in a dry run noted.
        exemption: Why it is left alone; None if it is not.
        next_step: What is due at `due_at`; None if nothing is.
    """

    job_id: int
    attempt_id: str
    project: str
    gpus: int
    idle_gpus: int
    idle_since: datetime
    is_interactive: bool
    taken: tuple[Step, ...]
    exemption: Exemption | None
    next_step: Step | None
    due_at: datetime | None


def list_notices(
    session: Session,
    principal: Principal,
    *,
    job_id: int | None = None,
    project_id: UUID | None = None,
    before_id: int | None = None,
    limit: int = MAX_PAGE,
) -> tuple[Notice, ...]:
    """Notices of the jobs that the caller sees, the latest first, at most `limit` or MAX_PAGE.

    Args:
        session: A session.
        principal: The caller.
        job_id: Only of this job.
        project_id: Only of this project.
        before_id: Only notices with a smaller id.
        limit: At most so many.
    """
    statement = (
        select(IdleNoticeRow, ProjectRow.slug)
        .join(JobRow, JobRow.id == IdleNoticeRow.job_id)
        .join(ProjectRow, ProjectRow.id == JobRow.project_id)
        .where(visible_to(principal, JobRow.project_id), IdleNoticeRow.is_dry_run.is_(False))
        .order_by(IdleNoticeRow.id.desc())
        .limit(max(1, min(limit, MAX_PAGE)))
    )
    if job_id is not None:
        statement = statement.where(IdleNoticeRow.job_id == job_id)
    if project_id is not None:
        statement = statement.where(JobRow.project_id == project_id)
    if before_id is not None:
        statement = statement.where(IdleNoticeRow.id < before_id)
    return tuple(
        Notice(
            id=row.id,
            job_id=row.job_id,
            attempt_id=row.attempt_id,
            project=project,
            step=Step(row.step),
            at=row.at,
            idle_s=row.idle_s,
            idle_gpus=row.idle_gpus,
            gpus=row.gpus,
            next_step=None if row.next_step is None else Step(row.next_step),
            next_at=row.next_at,
            returned_s=row.returned_s,
            cleared_at=row.cleared_at,
        )
        for row, project in session.execute(statement)
    )


def idle_jobs(session: Session, principal: Principal, at: datetime) -> tuple[IdleJob, ...]:
    """Jobs that the caller sees and that stand idle now, by number. O(running jobs).

    Args:
        session: A session.
        principal: The caller.
        at: Now, aware UTC.
    """
    found = [one for one in running(session, idle_policy.in_force(session), at) if one.idle_since is not None]
    rows = session.execute(
        select(JobRow.id, ProjectRow.slug)
        .join(ProjectRow, ProjectRow.id == JobRow.project_id)
        .where(visible_to(principal, JobRow.project_id), JobRow.id.in_([one.job_id for one in found]))
    )
    projects = {row.id: row.slug for row in rows}
    return tuple(_idle_job(one, projects[one.job_id], at) for one in found if one.job_id in projects)


def _idle_job(found: Running, project: str, at: datetime) -> IdleJob:
    exemption: Exemption | None = None
    next_step: Step | None = None
    due_at: datetime | None = None
    match found.decision:
        case Take(step=step):
            next_step, due_at = step, at
        case Watch():
            next_step, due_at = found.decision.next_step, found.decision.due_at
        case Leave():
            exemption = found.decision.exemption
    return IdleJob(
        job_id=found.job_id,
        attempt_id=found.attempt_id,
        project=project,
        gpus=found.gpus,
        idle_gpus=sum(gpu.idle_since is not None for gpu in found.use.gpus),
        idle_since=found.idle_since or at,
        is_interactive=found.use.is_interactive,
        taken=tuple(step for step in Step if step in found.use.taken),
        exemption=exemption,
        next_step=next_step,
        due_at=due_at,
    )
