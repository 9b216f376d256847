"""Figures of the machine: nodes and GPUs, use of every queue, and what the public is shown.

They name no job and no user; public figures name no organisation and no group of fewer than three.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from quota.cohort import QuotaUse, nominals
from quota.model import ROOT, Policy
from quota.policy import policy_queue
from quota.tree import WHOLE, entitled_of, in_pool, pool_of
from scheduler.model import JobState, NodeState
from scheduler.snapshot import LIVE, load_inventory, load_nodes
from scheduler.tables import AllocationRow, AttemptRow, JobRow, NodeRow
from tenants.tables import OrganisationRow, ProjectRow

MIN_ORGANISATIONS: Final = 3
"""Organisations in a public cell at least, so that no figure is one organisation's.

Source: the threshold rule of statistical disclosure control (Hundepool et al., "Statistical Disclosure Control",
2012, section 4.2) with its usual minimum of three.
"""

OTHER: Final = "other"
"""Public cell into which those with too few organisations go."""

WAIT_WINDOW_H: Final = 24
"""Hours back over which waits are told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeView:
    """A node and its GPUs: `busy` are held by an attempt, `free` could be, `down` are neither."""

    name: str
    flavor: str
    state: NodeState
    is_simulated: bool
    gpus: int
    busy: int
    free: int
    down: int
    cpus: int
    memory_bytes: int
    labels: Mapping[str, str]
    isolation: tuple[str, ...]
    last_seen_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterView:
    """The machine: its nodes by name, and the GPUs of all."""

    nodes: tuple[NodeView, ...]
    gpus: int
    busy: int
    free: int
    down: int
    is_simulated: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class SliceUse:
    """A node of the quota tree and one flavor of slices: guaranteed, held, and borrowed of what is held."""

    flavor: str
    nominal: int
    used: int
    borrowed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueUse:
    """A node of the quota tree: nominal and held GPUs, both whole ones, and jobs below it; `path` "" is the whole.

    Attributes:
        slices: of each flavor of slices in service, by flavor.
    """

    path: str
    is_queue: bool
    nominal: int
    used_gpus: int
    running: int
    pending: int
    slices: tuple[SliceUse, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """A public cell: GPUs held and jobs running and waiting of at least MIN_ORGANISATIONS organisations."""

    name: str
    busy: int
    running: int
    pending: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BusyWith:
    """What the machine is busy with, for everybody.

    Attributes:
        wait_median_s: median wait of jobs that started in the last WAIT_WINDOW_H hours; None when none did.
        wait_p95_s: their 95th percentile (nearest rank).
        started: how many did.
        organisations: organisations with a job that runs or waits.
    """

    at: datetime
    gpus: int
    busy: int
    free: int
    down: int
    is_simulated: bool
    running: int
    pending: int
    by_sector: tuple[Cell, ...]
    by_category: tuple[Cell, ...]
    wait_median_s: int | None
    wait_p95_s: int | None
    started: int
    organisations: int


def cluster(session: Session) -> ClusterView:
    """The nodes and what of them is held."""
    held = session.execute(
        select(AllocationRow.node, func.count().label("gpus"))
        .where(AllocationRow.released_at.is_(None))
        .group_by(AllocationRow.node)
    )
    busy_by_node = {row.node: row.gpus for row in held}
    nodes = {node.name: node for node in load_nodes(session)}
    views: list[NodeView] = []
    for row in session.scalars(select(NodeRow)):
        gpus = len(nodes[row.name].gpu_uuids)
        busy = min(gpus, busy_by_node.get(row.name, 0))
        rest = gpus - busy
        is_up = row.state == NodeState.UP.value
        views.append(
            NodeView(
                name=row.name,
                flavor=row.flavor,
                state=NodeState(row.state),
                is_simulated=row.is_simulated,
                gpus=gpus,
                busy=busy,
                free=rest if is_up else 0,
                down=0 if is_up else rest,
                cpus=row.cpus,
                memory_bytes=row.memory_bytes,
                labels=dict(row.labels),
                isolation=tuple(row.isolation),
                last_seen_at=row.last_seen_at,
            )
        )
    views.sort(key=lambda view: view.name)
    return ClusterView(
        nodes=tuple(views),
        gpus=sum(view.gpus for view in views),
        busy=sum(view.busy for view in views),
        free=sum(view.free for view in views),
        down=sum(view.down for view in views),
        is_simulated=any(view.is_simulated for view in views),
    )


def capacity_gpus(session: Session, at: datetime) -> int:
    """Whole GPUs in service, of every flavor; slices of GPUs are counted each flavor by itself."""
    return _whole(load_inventory(session, at).capacity)


def _whole(capacity: Mapping[str, int]) -> int:
    return sum(gpus for flavor, gpus in capacity.items() if pool_of(flavor) == WHOLE)


def _held_by_queue(session: Session, policy: Policy) -> list[tuple[str, int]]:
    """Whole GPUs that each queue's attempts hold."""
    held = session.execute(
        select(JobRow.queue, NodeRow.flavor, func.count())
        .select_from(AllocationRow)
        .join(AttemptRow, AttemptRow.id == AllocationRow.attempt_id)
        .join(JobRow, JobRow.id == AttemptRow.job_id)
        .join(NodeRow, NodeRow.name == AllocationRow.node)
        .where(AllocationRow.released_at.is_(None))
        .group_by(JobRow.queue, NodeRow.flavor)
    )
    return [(policy_queue(policy, queue), gpus) for queue, flavor, gpus in held if pool_of(flavor) == WHOLE]


def _slice_use(session: Session, policy: Policy, capacity: Mapping[str, int]) -> dict[str, list[SliceUse]]:
    """By node of the tree: its slices of each flavor in service. What is borrowed is told as the plan tells it."""
    flavors = sorted(flavor for flavor in capacity if pool_of(flavor) != WHOLE)
    if not flavors:
        return {}
    rows = session.execute(
        select(NodeRow.flavor, JobRow.queue, func.count().label("slices"))
        .select_from(AllocationRow)
        .join(AttemptRow, AttemptRow.id == AllocationRow.attempt_id)
        .join(JobRow, JobRow.id == AttemptRow.job_id)
        .join(NodeRow, NodeRow.name == AllocationRow.node)
        .where(AllocationRow.released_at.is_(None), NodeRow.flavor.in_(flavors))
        .group_by(NodeRow.flavor, JobRow.queue, AttemptRow.id)
        .order_by(AttemptRow.admitted_at, AttemptRow.admitted_seq, AttemptRow.id)
    )
    held: dict[str, dict[str, list[int]]] = {flavor: {} for flavor in flavors}
    for row in rows:
        held[row.flavor].setdefault(policy_queue(policy, row.queue), []).append(row.slices)
    found: dict[str, list[SliceUse]] = {}
    for flavor in flavors:
        nominal = nominals(in_pool(policy, flavor), capacity[flavor])
        used = QuotaUse.of((queue, sum(runs)) for queue, runs in held[flavor].items())
        borrowed = QuotaUse.of(
            (queue, _borrowed(runs, nominal.get(queue, 0))) for queue, runs in held[flavor].items()
        )
        for path in nominal:
            use = SliceUse(
                flavor=flavor, nominal=nominal[path], used=used.at(path), borrowed=borrowed.at(path)
            )
            found.setdefault(path, []).append(use)
    return found


def _borrowed(runs: list[int], nominal: int) -> int:
    """Of what is held, first admitted first, what is beyond the nominal."""
    return sum(gpus for gpus, fits in zip(runs, entitled_of(runs, nominal), strict=True) if not fits)


def queue_use(session: Session, policy: Policy, at: datetime) -> list[QueueUse]:
    """Every node of the quota tree with its nominal and its use, ROOT first, by path; slices apart from whole GPUs."""
    counts = [
        (policy_queue(policy, queue), state, jobs)
        for queue, state, jobs in session.execute(
            select(JobRow.queue, JobRow.state, func.count())
            .where(JobRow.state.in_([JobState.PENDING.value, *LIVE]))
            .group_by(JobRow.queue, JobRow.state)
        )
    ]
    used = QuotaUse.of(_held_by_queue(session, policy))
    running = QuotaUse.of((queue, jobs) for queue, state, jobs in counts if state in LIVE)
    pending = QuotaUse.of((queue, jobs) for queue, state, jobs in counts if state not in LIVE)
    parents = {node.parent for node in policy.tree}
    capacity = load_inventory(session, at).capacity
    found = nominals(policy, _whole(capacity))
    slices = _slice_use(session, policy, capacity)
    return [
        QueueUse(
            path=path,
            is_queue=path != ROOT and path not in parents,
            nominal=found[path],
            used_gpus=used.at(path),
            running=running.at(path),
            pending=pending.at(path),
            slices=tuple(slices.get(path, ())),
        )
        for path in sorted(found)
    ]


@dataclass(frozen=True, slots=True)
class _Use:
    """GPUs held and jobs of one organisation."""

    organisation: str
    sector: str
    category: str
    busy: int
    running: int
    pending: int


def busy_with(session: Session, at: datetime) -> BusyWith:
    """What the machine is busy with at `at`."""
    whole = cluster(session)
    uses = _uses(session)
    waits = _waits_s(session, at)
    return BusyWith(
        at=at,
        gpus=whole.gpus,
        busy=whole.busy,
        free=whole.free,
        down=whole.down,
        is_simulated=whole.is_simulated,
        running=sum(use.running for use in uses),
        pending=sum(use.pending for use in uses),
        by_sector=cells((use.sector, use) for use in uses),
        by_category=cells((use.category, use) for use in uses),
        wait_median_s=percentile(waits, 50),
        wait_p95_s=percentile(waits, 95),
        started=len(waits),
        organisations=len(uses),
    )


def _uses(session: Session) -> list[_Use]:
    is_live = JobRow.state.in_(LIVE)
    rows = session.execute(
        select(
            OrganisationRow.id,
            OrganisationRow.sector,
            OrganisationRow.category,
            func.coalesce(func.sum(JobRow.gpus).filter(is_live), 0),
            func.count().filter(is_live),
            func.count().filter(~is_live),
        )
        .join(ProjectRow, ProjectRow.organisation_id == OrganisationRow.id)
        .join(JobRow, JobRow.project_id == ProjectRow.id)
        .where(JobRow.state.in_([JobState.PENDING.value, *LIVE]))
        .group_by(OrganisationRow.id)
    )
    return [
        _Use(str(organisation), sector, category, int(busy), running, pending)
        for organisation, sector, category, busy, running, pending in rows
    ]


def cells(uses: Iterable[tuple[str, _Use]]) -> tuple[Cell, ...]:
    """Group by name; names with fewer than MIN_ORGANISATIONS organisations become one cell OTHER, by name.

    If OTHER itself then has too few, the smallest named cell joins it, so that it cannot be told by subtraction.
    """
    groups: dict[str, list[_Use]] = {}
    for name, use in uses:
        groups.setdefault(name, []).append(use)
    small = {name for name, group in groups.items() if len(group) < MIN_ORGANISATIONS}
    merged = [use for name in sorted(small) for use in groups.pop(name)]
    merged += groups.pop(OTHER, []) if merged else []
    if merged and len(merged) < MIN_ORGANISATIONS and groups:
        smallest = min(groups, key=lambda name: (len(groups[name]), name))
        merged += groups.pop(smallest)
    if merged:
        groups[OTHER] = merged
    return tuple(
        Cell(
            name=name,
            busy=sum(use.busy for use in group),
            running=sum(use.running for use in group),
            pending=sum(use.pending for use in group),
        )
        for name, group in sorted(groups.items())
    )


def _waits_s(session: Session, at: datetime) -> list[int]:
    since = at - timedelta(hours=WAIT_WINDOW_H)
    rows = session.execute(
        select(JobRow.submitted_at, JobRow.first_started_at).where(JobRow.first_started_at > since)
    )
    return sorted(
        max(0, int((started - submitted).total_seconds())) for submitted, started in rows if started
    )


def percentile(ordered: list[int], percent: int) -> int | None:
    """Nearest-rank percentile of sorted values; None of none.

    Source: NIST/SEMATECH e-Handbook of Statistical Methods, section 7.2.6.2 (percentiles), nearest rank.
    """
    if not ordered:
        return None
    return ordered[max(0, -(-percent * len(ordered) // 100) - 1)]
