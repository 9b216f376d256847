"""Reading what a cycle plans from: one frozen, sorted value per instant of the database."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import select, text
from sqlalchemy.orm import Session

from quota import service as quota
from quota.model import Grant
from scheduler.model import (
    LIVE_STATES,
    GrantView,
    JobState,
    LiveAttempt,
    Node,
    NodeState,
    PendingJob,
    Snapshot,
)
from scheduler.rows import attempt_fields, job_fields, live_attempt, pending_job
from scheduler.tables import AttemptRow, GpuRow, JobRow, NodeRow
from store import clock
from tenants.model import ProjectStatus
from tenants.tables import ProjectRow

LIVE = tuple(sorted(state.value for state in LIVE_STATES))
"""Names of the states in which GPUs are held."""


def load(session: Session, at: datetime) -> Snapshot:
    """Read the whole snapshot; the session is one of `store.engine.snapshot`, so that it is of one instant.

    Its version is the text of the database snapshot: the journal records visible in it rebuild it exactly.
    Cost: O(pending jobs + live attempts + nodes + grants).
    """
    version = session.execute(text("SELECT pg_current_snapshot()::text")).scalar_one()
    nodes = load_nodes(session)
    return Snapshot(
        at_ms=clock.to_ms(at),
        version=str(version),
        nodes=nodes,
        live=_live(session),
        pending=_pending(session),
        grants=tuple(map(grant_view, quota.grants(session))),
        capacity=capacity_of(nodes),
    )


def load_running(session: Session, at: datetime) -> Snapshot:
    """Read the snapshot without the waiting jobs: what an admission is checked against again."""
    nodes = load_nodes(session)
    return Snapshot(
        at_ms=clock.to_ms(at),
        version="",
        nodes=nodes,
        live=_live(session),
        pending=(),
        grants=tuple(map(grant_view, quota.grants(session))),
        capacity=capacity_of(nodes),
    )


def load_inventory(session: Session, at: datetime) -> Snapshot:
    """Read nodes and capacity only: what decides whether a job can ever fit."""
    nodes = load_nodes(session)
    return Snapshot(clock.to_ms(at), "", nodes, (), (), (), capacity_of(nodes))


def load_nodes(session: Session) -> tuple[Node, ...]:
    """Read the inventory, by name, each node's GPUs in index order."""
    gpus: dict[str, list[str]] = {}
    for gpu in session.execute(
        select(GpuRow.node, GpuRow.uuid).where(GpuRow.is_present).order_by(GpuRow.node, GpuRow.index)
    ):
        gpus.setdefault(gpu.node, []).append(gpu.uuid)
    found = [
        Node(
            name=row.name,
            flavor=row.flavor,
            gpu_uuids=tuple(gpus.get(row.name, ())),
            state=NodeState(row.state),
            is_simulated=row.is_simulated,
            labels=tuple(sorted(row.labels.items())),
        )
        for row in session.scalars(select(NodeRow))
    ]
    return tuple(sorted(found, key=lambda node: node.name))


def capacity_of(nodes: tuple[Node, ...]) -> dict[str, int]:
    """GPUs in service per flavor: a node leaves by an operator's act, not by being down for a while."""
    found: dict[str, int] = {}
    for node in nodes:
        if node.state is not NodeState.DRAINED:
            found[node.flavor] = found.get(node.flavor, 0) + len(node.gpu_uuids)
    return found


def grant_view(grant: Grant) -> GrantView:
    """What the plan needs of a grant."""
    return GrantView(
        id=grant.id,
        project_id=grant.project_id,
        flavor=grant.flavor,
        starts_ms=grant.starts_ms,
        ends_ms=grant.ends_ms,
        remaining_s=grant.balance.remaining_s,
        pending_s=grant.balance.pending_s,
    )


def _live(session: Session) -> tuple[LiveAttempt, ...]:
    rows = session.execute(
        select(AttemptRow, JobRow)
        .join(JobRow, JobRow.id == AttemptRow.job_id)
        .where(AttemptRow.state.in_(LIVE))
        .execution_options(populate_existing=True)
    )
    found = [
        live_attempt(attempt.id, job_fields(job), attempt_fields(attempt), attempt.ranks)
        for attempt, job in rows
    ]
    return tuple(sorted(found, key=lambda attempt: attempt.id))


def _pending(session: Session) -> tuple[PendingJob, ...]:
    rows = session.execute(
        select(JobRow, ProjectRow.status)
        .join(ProjectRow, ProjectRow.id == JobRow.project_id)
        .where(JobRow.state == JobState.PENDING.value)
        .order_by(JobRow.id)
    )
    return tuple(
        pending_job(job.id, job_fields(job), is_suspended=status == ProjectStatus.SUSPENDED.value)
        for job, status in rows
    )
