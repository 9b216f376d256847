"""Reading what a cycle plans from: one frozen, sorted value per instant of the database."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from sqlalchemy import func, select, text
from sqlalchemy.dialects.postgresql import aggregate_order_by
from sqlalchemy.orm import Session

from quota import service as quota
from quota.model import Policy
from quota.tables import GrantRow
from scheduler.fields import (
    Act,
    ActKind,
    Fields,
    Standing,
    capacity_of,
    grant_view,
    integer,
    live_attempt,
    pending_job,
    reservation_of,
    usage_of,
    windows_at,
)
from scheduler.model import (
    LIVE_STATES,
    JobState,
    LiveAttempt,
    Node,
    NodeState,
    PendingJob,
    Snapshot,
)
from scheduler.rows import attempt_fields, job_fields
from scheduler.tables import ActRow, AttemptRow, GpuRow, JobRow, NodeRow, UsageRow, WindowRow
from store import clock
from tenants.model import ProjectStatus
from tenants.tables import ProjectRow

LIVE = tuple(sorted(state.value for state in LIVE_STATES))
"""Names of the states in which GPUs are held."""


def load(session: Session, at: datetime, policy: Policy) -> Snapshot:
    """Read the whole snapshot; the session is one of `store.engine.snapshot`, so that it is of one instant.

    The policy says what an admission counts as use at once, and under which queue.

    Its version is the text of the database snapshot: the journal records visible in it rebuild it exactly.
    Cost: O(pending jobs + live attempts + nodes + grants).
    """
    version = session.execute(text("SELECT pg_current_snapshot()::text")).scalar_one()
    at_ms = clock.to_ms(at)
    nodes = load_nodes(session)
    standing = load_standing(session, at)
    waiting = _waiting(session)
    reserved = [reservation_of(job.id, {"reservation": job.reservation}) for job, _ in waiting]
    return Snapshot(
        at_ms=at_ms,
        version=str(version),
        nodes=nodes,
        live=_live(session, standing),
        pending=pending_jobs(session, waiting, standing),
        grants=tuple(map(grant_view, quota.grants(session))),
        capacity=capacity_of(nodes),
        usage=load_usage(session, policy),
        reservations=tuple(kept for kept in reserved if kept is not None),
        windows=windows_at(load_windows(session), at_ms),
    )


def load_inventory(session: Session, at: datetime) -> Snapshot:
    """Read nodes and capacity only: what decides whether a job can ever fit."""
    nodes = load_nodes(session)
    return Snapshot(clock.to_ms(at), "", nodes, (), (), (), capacity_of(nodes))


def load_nodes(session: Session) -> tuple[Node, ...]:
    """Read the inventory, by name, each node's GPUs in index order."""
    in_order = aggregate_order_by(GpuRow.uuid, GpuRow.index)
    present = select(GpuRow.node, func.array_agg(in_order)).where(GpuRow.is_present).group_by(GpuRow.node)
    gpus = {node: tuple(uuids) for node, uuids in session.execute(present)}
    found = [
        Node(
            name=row.name,
            flavor=row.flavor,
            gpu_uuids=gpus.get(row.name, ()),
            state=NodeState(row.state),
            is_simulated=row.is_simulated,
            labels=tuple(sorted(row.labels.items())),
            cpus=row.cpus,
            memory_bytes=row.memory_bytes,
            is_drained=row.drained_at is not None,
        )
        for row in session.scalars(select(NodeRow))
    ]
    return tuple(sorted(found, key=lambda node: node.name))


def load_acts(session: Session) -> dict[int, Act]:
    """Read the operators' acts that were not taken back, by id."""
    return {
        row.id: Act(ActKind(row.kind), row.job_id, row.queue, clock.to_ms(row.expires_at))
        for row in session.scalars(select(ActRow).where(ActRow.ended_at.is_(None)))
    }


def load_standing(session: Session, at: datetime) -> Standing:
    """Read which acts stand at an instant."""
    return Standing.at(load_acts(session).values(), clock.to_ms(at))


def load_windows(session: Session) -> dict[int, Fields]:
    """Read the windows that were not removed, as the journal tells them, by id."""
    return {
        row.id: window_fields(row)
        for row in session.scalars(select(WindowRow).where(WindowRow.removed_at.is_(None)))
    }


def window_fields(row: WindowRow) -> Fields:
    """Everything of a window that the journal carries."""
    return {
        "kind": row.kind,
        "nodes": list(row.nodes),
        "projects": [str(project) for project in row.projects],
        "from_ms": clock.to_ms(row.from_at),
        "to_ms": clock.to_ms(row.to_at),
        "repeats": row.repeats,
    }


def load_usage(session: Session, policy: Policy) -> dict[str, int]:
    """Read the decayed use of every queue. O(queues + admissions since the last sample)."""
    sampled = session.execute(select(UsageRow.queue, UsageRow.used_gpu_ms, UsageRow.sampled_at)).all()
    admitted = (
        select(JobRow.queue, GrantRow.flavor, JobRow.gpus)
        .join(AttemptRow, AttemptRow.job_id == JobRow.id)
        .join(GrantRow, GrantRow.id == AttemptRow.grant_id)
    )
    if sampled:
        admitted = admitted.where(AttemptRow.admitted_at >= sampled[0].sampled_at)
    admissions = [(row.queue, row.flavor, row.gpus) for row in session.execute(admitted)]
    return usage_of({row.queue: row.used_gpu_ms for row in sampled}, admissions, policy)


def _live(session: Session, standing: Standing) -> tuple[LiveAttempt, ...]:
    rows = session.execute(
        select(AttemptRow, JobRow)
        .join(JobRow, JobRow.id == AttemptRow.job_id)
        .where(AttemptRow.state.in_(LIVE))
        .execution_options(populate_existing=True)
    )
    found = [
        live_attempt(attempt.id, job_fields(job), attempt_fields(attempt), attempt.ranks, standing)
        for attempt, job in rows
    ]
    return tuple(sorted(found, key=lambda attempt: attempt.id))


def _waiting(session: Session) -> list[tuple[JobRow, bool]]:
    """Jobs that wait, by id, each with whether its project is suspended."""
    rows = session.execute(
        select(JobRow, ProjectRow.status)
        .join(ProjectRow, ProjectRow.id == JobRow.project_id)
        .where(JobRow.state == JobState.PENDING.value)
        .order_by(JobRow.id)
    )
    return [(job, status == ProjectStatus.SUSPENDED.value) for job, status in rows]


def pending_jobs(
    session: Session, waiting: Iterable[tuple[JobRow, bool]], standing: Standing
) -> tuple[PendingJob, ...]:
    """Waiting jobs as the plan reads them, in the order given; reads the states of jobs they depend on."""
    rows = list(waiting)
    wanted = {integer(dependency["job_id"]) for job, _ in rows for dependency in job.depends_on}
    states: dict[int, str] = {}
    if wanted:
        found = session.execute(select(JobRow.id, JobRow.state).where(JobRow.id.in_(wanted)))
        states = {row.id: row.state for row in found}
    return tuple(
        pending_job(job.id, job_fields(job), is_suspended=is_suspended, standing=standing, states=states)
        for job, is_suspended in rows
    )
