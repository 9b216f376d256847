"""Frozen values of the scheduling core: what a cycle reads and what it decides.

Instants are integer milliseconds since the Unix epoch in UTC (`*_ms`), durations whole seconds (`*_s`). The
order of every tuple is part of the value: the same snapshot gives the same plan, byte for byte.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NewType
from uuid import UUID

from quota.model import GrantId
from scheduler.causes import MoveCause
from scheduler.windows import Window

JobId = NewType("JobId", int)
AttemptId = NewType("AttemptId", str)
"""`<job>-<n>`, n from 1; also the name of the object in the executor, so "already exists" is success."""


class JobState(StrEnum):
    """States of a job. Source: Slurm's job state codes, with ADMITTED between PENDING and RUNNING."""

    PENDING = "PENDING"
    ADMITTED = "ADMITTED"
    RUNNING = "RUNNING"
    COMPLETING = "COMPLETING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    TIMEOUT = "TIMEOUT"
    NODE_FAIL = "NODE_FAIL"
    OUT_OF_MEMORY = "OUT_OF_MEMORY"
    PREEMPTED = "PREEMPTED"


LIVE_STATES = frozenset({JobState.ADMITTED, JobState.RUNNING, JobState.COMPLETING})
FINAL_STATES = frozenset(
    {
        JobState.COMPLETED,
        JobState.FAILED,
        JobState.CANCELLED,
        JobState.TIMEOUT,
        JobState.NODE_FAIL,
        JobState.OUT_OF_MEMORY,
    }
)


class NodeState(StrEnum):
    """Whether a node takes work: UP does; DOWN is not heard of; DRAINED is, but an operator took it out."""

    UP = "UP"
    DOWN = "DOWN"
    DRAINED = "DRAINED"


class ReasonCode(StrEnum):
    """The one decisive reason why a job waits, or was refused."""

    BUDGET_EXHAUSTED = "BUDGET_EXHAUSTED"
    GRANT_NOT_ACTIVE = "GRANT_NOT_ACTIVE"
    PROJECT_SUSPENDED = "PROJECT_SUSPENDED"
    QUEUE_LIMIT = "QUEUE_LIMIT"
    BORROWING_LIMIT = "BORROWING_LIMIT"
    WAITING_TURN = "WAITING_TURN"
    NO_CAPACITY = "NO_CAPACITY"
    FRAGMENTED = "FRAGMENTED"
    FRAGMENTED_BY_ENTITLED = "FRAGMENTED_BY_ENTITLED"
    RECLAIMING = "RECLAIMING"
    RESERVED_FOR = "RESERVED_FOR"
    MAINTENANCE = "MAINTENANCE"
    DEPENDENCY = "DEPENDENCY"
    BEGIN_TIME = "BEGIN_TIME"
    ARRAY_CAP = "ARRAY_CAP"
    BACKOFF = "BACKOFF"
    HELD = "HELD"
    PAUSED = "PAUSED"
    NEVER_FITS = "NEVER_FITS"


class ShareClass(StrEnum):
    """Whether a job runs within its queue's nominal quota or on what others lend."""

    ENTITLED = "entitled"
    BORROWED = "borrowed"


class Placement(StrEnum):
    """Which of the nodes that hold a job it gets. Source: the strategies PACK and SPREAD of Ray's groups."""

    PACK = "pack"
    """The fullest, so that whole nodes stay whole for large jobs."""
    SPREAD = "spread"
    """The emptiest, so that it shares its node with as few as can be."""


Numbers = Mapping[str, int | str]
"""Named figures of a reason; rendered in three languages by whoever shows them."""


@dataclass(frozen=True, slots=True)
class Request:
    """What a job asks for.

    Args:
        gpus: GPUs in all, 1 or more.
        walltime_s: longest run in seconds; the claim on the grant is gpus x walltime_s.
        flavors: acceptable flavors in order of preference, at least one.
        nodes: 1 = must fit one node; n = exactly n nodes with gpus/n on each; None = may span the fewest.
        memory_bytes_per_rank: a rank above it is stopped as OUT_OF_MEMORY, and above what
            `memory_bytes_per_gpu` comes to for its GPUs; both None = the node's own limit. It sets nothing aside.
        node_labels: labels that every node of the job has, all of them, by key.
        topology_required: level of the topology; all nodes lie in one domain of it.
        topology_preferred: level from which on upwards the narrowest is taken at which one domain holds the job.
        placement: which of the nodes that hold it.
        cpus_per_gpu: CPUs set aside for each GPU; None = the node's share.
        memory_bytes_per_gpu: memory set aside for each GPU; None = the node's share.
        is_entitled_only: it starts within its queue's guarantee alone, where that is large enough for it: it was
            stopped for others as often as a job may be.
    """

    gpus: int
    walltime_s: int
    flavors: tuple[str, ...]
    nodes: int | None = None
    memory_bytes_per_rank: int | None = None
    node_labels: tuple[tuple[str, str], ...] = ()
    topology_required: str | None = None
    topology_preferred: str | None = None
    placement: Placement = Placement.PACK
    cpus_per_gpu: int | None = None
    memory_bytes_per_gpu: int | None = None
    is_entitled_only: bool = False

    def __hash__(self) -> int:
        """Of what differs between most requests: kinds of jobs are looked up by it a hundred thousand times."""
        return hash((self.gpus, self.walltime_s, self.flavors, self.nodes))


@dataclass(frozen=True, slots=True)
class Slot:
    """The GPUs of one node that a rank gets, by UUID, in the node's order. Rank = position of the slot."""

    node: str
    gpu_uuids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Node:
    """A node of the inventory.

    Args:
        gpu_uuids: in index order; all GPUs of a node are of one flavor.
        labels: by key.
        cpus: None = not stated: the node takes no job that asks for CPUs.
        memory_bytes: None = not stated: the node takes no job that asks for memory.
        is_drained: an operator took it out of service; also of one that is DOWN.
    """

    name: str
    flavor: str
    gpu_uuids: tuple[str, ...]
    state: NodeState
    is_simulated: bool
    labels: tuple[tuple[str, str], ...] = ()
    cpus: int | None = None
    memory_bytes: int | None = None
    is_drained: bool = False

    @property
    def is_in_service(self) -> bool:
        """Whether it counts as capacity: a node leaves by an operator's act, not by being down for a while."""
        return not (self.is_drained or self.state is NodeState.DRAINED)


@dataclass(frozen=True, slots=True)
class Array:
    """The array that a job belongs to, and how many jobs of it may hold GPUs at a time."""

    id: JobId
    cap: int


@dataclass(frozen=True, slots=True)
class PendingJob:
    """A job that waits.

    Args:
        back_off_until_ms: follows a launch that the executor refused.
        begin_ms: the earliest start that its user asked for.
        waits_for: a job it depends on, which has not ended as it must.
        is_paused: an operator keeps it or its queue from starting.
        is_expedited: an operator puts it first in its queue.
    """

    id: JobId
    project_id: UUID
    queue: str
    request: Request
    priority: int
    submitted_ms: int
    is_held: bool = False
    is_suspended: bool = False
    back_off_until_ms: int = 0
    attempts: int = 0
    begin_ms: int = 0
    waits_for: JobId | None = None
    array: Array | None = None
    is_paused: bool = False
    is_expedited: bool = False


@dataclass(frozen=True, slots=True)
class LiveAttempt:
    """An attempt whose GPUs are not proven free: ADMITTED, RUNNING or COMPLETING.

    Args:
        admitted_seq: place among the admissions of its cycle, which share `admitted_ms`.
        priority: of its job; the lowest is reclaimed first.
        grace_s: notice it gets before it is stopped, fixed at its admission.
        checkpoint_ms: the last checkpoint that its agent saw, None = none.
        is_protected: an operator forbade to reclaim it.
        reclaimed_by: the job that its GPUs are held for, once it is under notice.
        stop_ms: when its notice ends.
        array_id: the array that its job belongs to.
    """

    id: AttemptId
    job_id: JobId
    project_id: UUID
    queue: str
    request: Request
    slots: tuple[Slot, ...]
    state: JobState
    admitted_ms: int
    committed_ms: int | None = None
    is_stopping: bool = False
    admitted_seq: int = 0
    priority: int = 0
    grace_s: int = 0
    checkpoint_ms: int | None = None
    is_protected: bool = False
    reclaimed_by: JobId | None = None
    stop_ms: int | None = None
    array_id: JobId | None = None


Place = tuple[tuple[str, int], ...]
"""Node names and how many GPUs of each: where a job is to run, before GPUs are chosen."""


@dataclass(frozen=True, slots=True)
class Reservation:
    """A planned start as the last plan left it; `Reserve` makes it.

    Args:
        planned_ms: instant of the plan that last confirmed it.
        is_reclaim: attempts were given notice for it: nothing may move it but the loss of a node.
        policy_version: of the policy it was planned under, "" = not on record.
        capacity_gpus: GPUs in service then, None = not on record.
    """

    job_id: JobId
    start_ms: int
    place: Place
    flavor: str
    share_class: ShareClass
    planned_ms: int
    is_reclaim: bool = False
    policy_version: str = ""
    capacity_gpus: int | None = None


@dataclass(frozen=True, slots=True)
class Moved:
    """A planned start that was put off, by how much, and why; `later_ms` None = it is planned no more."""

    job_id: JobId
    later_ms: int | None
    cause: MoveCause


@dataclass(frozen=True, slots=True)
class GrantView:
    """What the plan needs of a grant."""

    id: GrantId
    project_id: UUID
    flavor: str
    starts_ms: int
    ends_ms: int
    remaining_s: int
    pending_s: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Input of one cycle: frozen, sorted (nodes by name, live by id, pending by id, grants by id).

    Args:
        at_ms: the instant the plan is made for; the core reads no clock.
        version: text of the database snapshot it was read from; the same journal records give it again.
        capacity: GPUs in service per flavor; a node leaves it by an operator's act, not by being down.
        usage: decayed use of each queue in GPU-milliseconds, entry charges included; see `quota.fairshare`.
        reservations: start reservations as the last plan left them, by job.
        windows: maintenance and advance reservations that have not ended, by id.
    """

    at_ms: int
    version: str
    nodes: tuple[Node, ...]
    live: tuple[LiveAttempt, ...]
    pending: tuple[PendingJob, ...]
    grants: tuple[GrantView, ...]
    capacity: Mapping[str, int]
    usage: Mapping[str, int] = field(default_factory=dict)
    reservations: tuple[Reservation, ...] = ()
    windows: tuple[Window, ...] = ()


@dataclass(frozen=True, slots=True)
class Admit:
    """Start the job on exactly these slots, claiming `claim_s` device-seconds of the grant."""

    job_id: JobId
    slots: tuple[Slot, ...]
    grant_id: GrantId
    claim_s: int
    share_class: ShareClass


@dataclass(frozen=True, slots=True)
class Preempt:
    """Give the attempt notice; it is stopped at `stop_ms`, and its GPUs are held for `for_job`."""

    attempt_id: AttemptId
    for_job: JobId
    stop_ms: int


@dataclass(frozen=True, slots=True)
class Reserve:
    """The job is to start at `start_ms` on these nodes; it stands in the next snapshot as a `Reservation`."""

    job_id: JobId
    start_ms: int
    place: Place
    flavor: str
    share_class: ShareClass
    is_reclaim: bool = False


@dataclass(frozen=True, slots=True)
class Expire:
    """The attempt is past its walltime and its node did not stop it: stop it."""

    attempt_id: AttemptId


@dataclass(frozen=True, slots=True)
class Wait:
    """The job does not start now; why, with numbers."""

    job_id: JobId
    reason: ReasonCode
    numbers: Numbers = field(default_factory=dict)


PlanEntry = Admit | Expire | Preempt | Reserve | Wait


@dataclass(frozen=True, slots=True)
class Plan:
    """Output of one cycle: every pending job is in exactly one `Admit` or `Wait`.

    Args:
        entries: expired attempts, starts in the order in which they were decided, the reasons of those who wait
            by job, reservations, notices.
        next_ms: instant at which a notice has to go out or a planned start comes, None = none is known;
            a cycle at it keeps every promise, whatever else happens.
        moved: planned starts that this plan puts off or gives up, by job; follows from the entries' making and is
            no part of the digest.
        capacity_gpus: GPUs in service that it was made for.
    """

    at_ms: int
    version: str
    policy_version: str
    entries: Sequence[PlanEntry]
    next_ms: int | None = None
    moved: tuple[Moved, ...] = ()
    capacity_gpus: int | None = None

    @property
    def effects(self) -> tuple[PlanEntry, ...]:
        """All entries but the reasons of those who wait, in order; these are not worked out for it."""
        found = getattr(self.entries, "effects", self.entries)
        return tuple(entry for entry in found if not isinstance(entry, Wait))
