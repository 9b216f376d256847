"""Reading what explanations and previews are made from: the snapshot as the next cycle would see it."""

from __future__ import annotations

import threading
from dataclasses import replace
from datetime import datetime
from typing import Final

from sqlalchemy import select
from sqlalchemy.orm import Session

from quota import service as quota
from quota.model import Policy
from scheduler.explain import Explainer, Explanation, never_fits
from scheduler.fields import request_of
from scheduler.fit import Bounds
from scheduler.interval import REMEMBERED, Interval, StartRecord, Told
from scheduler.model import JobId, JobState, Snapshot
from scheduler.preview import Preview, preview
from scheduler.rows import job_fields
from scheduler.snapshot import load, load_inventory
from scheduler.tables import JobRow
from scheduler.views import JobNotFoundError
from scheduler.warm import Warm
from store import clock
from tenants.authz import visible_to
from tenants.model import Principal

SAME_MS: Final = 1_000
"""Milliseconds for which a snapshot is explained from while nothing changes: a running scheduler's cycle."""


class Explanations:
    """What a process knows of the waiting jobs from one explanation to the next; one is made at a time."""

    def __init__(self) -> None:
        self._lock: Final = threading.Lock()
        self._warm: Final = Warm()
        self._explainer: Final = Explainer()
        self._last: tuple[Snapshot, Policy] | None = None

    def explain(self, session: Session, job_id: JobId, at: datetime, policy: Policy) -> Explanation | None:
        """`scheduler.explain.explain` as of an instant; the session is a snapshot."""
        with self._lock:
            if self._warm.is_ahead_of(session):  # it waited here while a later one was read
                return Explainer().explain(job_id, load(session, at, policy), policy)
            found, policy = self._last = self._read(session, at, policy)
            return self._explainer.explain(job_id, found, policy)

    def _read(self, session: Session, at: datetime, policy: Policy) -> tuple[Snapshot, Policy]:
        """What there is now, or what there was a moment ago where that is still all."""
        found = self._warm.read(session, at, policy)
        if self._last is not None:
            last, before = self._last
            is_recent = 0 <= found.at_ms - last.at_ms < SAME_MS
            if is_recent and found.version == last.version and policy == before:
                return self._last
        return found, policy


def explain_job(
    session: Session, principal: Principal, job_id: int, at: datetime, known: Explanations | None = None
) -> Explanation | None:
    """Why a job waits, as the next cycle would see it; None when it starts then, or does not wait.

    Waiting jobs are not read for one that can never start: that answer is as quick however long the queues are.

    Args:
        session: a snapshot.
        principal: who asks.
        job_id: the job.
        at: the instant to plan for.
        known: what explanations before this one knew; None = all is read anew.

    Raises:
        JobNotFoundError: there is no such job for this caller.
        NoPolicyError: no policy is in force.
    """
    statement = select(JobRow).where(visible_to(principal, JobRow.project_id), JobRow.id == job_id)
    row = session.scalars(statement).one_or_none()
    if row is None:
        raise JobNotFoundError(job_id)
    if row.state != JobState.PENDING.value:
        return None
    policy = quota.policy_in_force(session, at)
    bounds = Bounds(load_inventory(session, at), policy)
    never = never_fits(JobId(job_id), row.queue, request_of(job_fields(row)), bounds)
    if never is not None:
        return never
    known = Explanations() if known is None else known
    found = known.explain(session, JobId(job_id), at, policy)
    if found is None or found.start_ms is None:
        return found
    return replace(found, expected=_expected(row, found.start_ms, clock.to_ms(at), last_starts(session)))


def last_starts(session: Session) -> StartRecord:
    """What became of the last planned starts that came: read by an index, at most REMEMBERED rows."""
    rows = session.execute(
        select(JobRow.told_at, JobRow.told_start_at, JobRow.first_started_at)
        .where(
            JobRow.told_at.is_not(None),
            JobRow.told_start_at.is_not(None),
            JobRow.first_started_at.is_not(None),
        )
        .order_by(JobRow.first_started_at.desc())
        .limit(REMEMBERED)
    ).all()
    record = StartRecord()
    for told_at, start_at, began_at in reversed(rows):
        if told_at is not None and start_at is not None and began_at is not None:
            record.add(Told(clock.to_ms(told_at), clock.to_ms(start_at), clock.to_ms(began_at)))
    return record


def _expected(row: JobRow, start_ms: int, now_ms: int, record: StartRecord) -> Interval:
    """The interval of the start that the job was first told; of the new one where it was put off since."""
    if row.told_at is not None and row.told_start_at is not None:
        told_ms, told_start_ms = clock.to_ms(row.told_at), clock.to_ms(row.told_start_at)
        if start_ms <= told_start_ms:
            return record.interval(told_ms, told_start_ms, now_ms)
    return record.interval(now_ms, start_ms)


def preview_policy(session: Session, other: Policy, at: datetime) -> Preview:
    """What another policy would do now; the session is a snapshot.

    Raises:
        NoPolicyError: no policy is in force to set it beside.
    """
    now = quota.policy_in_force(session, at)
    return preview(load(session, at, now), now, other)
