"""Reading what explanations and previews are made from: the snapshot as the next cycle would see it."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy.orm import Session

from quota import service as quota
from quota.model import Policy
from scheduler.explain import Explanation, explain
from scheduler.model import JobId, JobState
from scheduler.preview import Preview, preview
from scheduler.snapshot import load
from scheduler.views import get
from tenants.model import Principal


def explain_job(session: Session, principal: Principal, job_id: int, at: datetime) -> Explanation | None:
    """Why a job waits, as the next cycle would see it; None when it starts then, or does not wait.

    Raises:
        JobNotFoundError: there is no such job for this caller.
        NoPolicyError: no policy is in force.
    """
    if get(session, principal, job_id).state is not JobState.PENDING:
        return None
    policy = quota.policy_in_force(session, at)
    snapshot = load(session, at, policy)
    return explain(JobId(job_id), snapshot, policy)


def preview_policy(session: Session, other: Policy, at: datetime) -> Preview:
    """What another policy would do now; the session is a snapshot.

    Raises:
        NoPolicyError: no policy is in force to set it beside.
    """
    now = quota.policy_in_force(session, at)
    return preview(load(session, at, now), now, other)
