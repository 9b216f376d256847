"""What the API answers about jobs and the machine: wire types and how they are made of the scheduler's values."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from pydantic import BaseModel

from api.answers import Figure
from scheduler.jobs import (
    ArtefactView,
    AttemptRecord,
    ClusterView,
    JobView,
)
from scheduler.model import JobState, NodeState, Placement, Reservation
from store.clock import from_ms
from store.journal import Record


class BundleOut(BaseModel):
    """An uploaded bundle; its digest goes into the job."""

    digest: str
    size_bytes: int


class ReasonOut(BaseModel):
    """The one decisive reason why a job waits: code, figures, and both as a sentence in the language asked for."""

    code: str
    numbers: dict[str, Figure]
    text: str


class DependencyOut(BaseModel):
    """A job that has to end before this one, and how (`afterok`, `afterany`, `afternotok`)."""

    job_id: int
    kind: str


class ArrayOut(BaseModel):
    """Where a job stands in its array: the array's number is that of its first job."""

    id: int
    index: int
    cap: int


class PlannedStartOut(BaseModel):
    """When and where a waiting job is to start, counted with full walltimes of all that run before it.

    It comes no later unless entitled work, a lost node, a policy or an operator moves it. With `is_reclaim` GPUs are
    being taken back for it.
    """

    starts_at: datetime
    flavor: str
    share_class: str
    nodes: dict[str, int]
    is_reclaim: bool

    @classmethod
    def of(cls, found: Reservation) -> PlannedStartOut:
        """The wire form."""
        return cls(
            starts_at=from_ms(found.start_ms),
            flavor=found.flavor,
            share_class=found.share_class.value,
            nodes=dict(found.place),
            is_reclaim=found.is_reclaim,
        )


class RankOut(BaseModel):
    """One rank of an attempt: its place, and how it ended once it did."""

    rank: int
    node: str
    gpu_uuids: list[str]
    started_at: datetime | None
    ended_at: datetime | None
    exit_code: int | None
    signal: int | None
    error: str | None


class AttemptOut(BaseModel):
    """One execution of a job; `claim_s`, `used_s` and `refunded_s` are device-seconds.

    `reclaimed_by` is the job that takes its GPUs back; its notice ends at `notice_ends_at`.
    """

    id: str
    number: int
    state: JobState
    share_class: str
    grant_id: UUID
    claim_s: int
    used_s: int | None
    ranks: list[RankOut]
    admitted_at: datetime
    dispatched_at: datetime | None
    committed_at: datetime | None
    started_at: datetime | None
    ended_at: datetime | None
    stop_why: str | None
    grace_s: int
    reclaimed_by: int | None
    notice_ends_at: datetime | None
    refunded_s: int

    @classmethod
    def of(cls, found: AttemptRecord) -> AttemptOut:
        """The wire form."""
        plain = {name: getattr(found, name) for name in cls.model_fields if name != "ranks"}
        ranks = [
            RankOut(
                rank=rank.rank,
                node=rank.node,
                gpu_uuids=list(rank.gpu_uuids),
                started_at=rank.started_at,
                ended_at=rank.ended_at,
                exit_code=rank.exit_code,
                signal=rank.signal,
                error=rank.error,
            )
            for rank in found.ranks
        ]
        return cls(**plain, ranks=ranks)


class SlotOut(BaseModel):
    """The GPUs of one node that a rank holds; the rank is the slot's position."""

    node: str
    gpu_uuids: list[str]


class JobOut(BaseModel):
    """A job. Name, command, env and outputs are null for a caller who reads figures only.

    `place`: jobs ahead in its queue, null when it does not wait. `is_simulated`: whether its GPUs are simulated, null
    before it got any. `exit_error_text`: what `exit_error` means and what to do, in the language asked for.
    """

    id: int
    project: str
    organisation: str
    user: str
    queue: str
    state: JobState
    name: str | None
    command: list[str] | None
    env: dict[str, str] | None
    outputs: list[str] | None
    reason: ReasonOut | None
    place: int | None
    priority: int
    gpus: int
    nodes: int | None
    walltime_s: int
    flavors: list[str]
    memory_bytes_per_rank: int | None
    node_labels: dict[str, str]
    topology_required: str | None
    topology_preferred: str | None
    placement: Placement
    cpus_per_gpu: int | None
    memory_bytes_per_gpu: int | None
    bundle: str | None
    is_held: bool
    is_interactive: bool
    begin_at: datetime | None
    depends_on: list[DependencyOut]
    array: ArrayOut | None
    planned_start: PlannedStartOut | None
    preemptions: int
    is_cancel_requested: bool
    is_simulated: bool | None
    attempts: int
    attempt: AttemptOut | None
    slots: list[SlotOut]
    exit_code: int | None
    exit_signal: int | None
    exit_error: str | None
    exit_error_text: str | None
    gpu_seconds: int
    submitted_at: datetime
    back_off_until: datetime | None
    first_started_at: datetime | None
    finished_at: datetime | None

    @classmethod
    def of(cls, job: JobView, reason: ReasonOut | None, exit_error_text: str | None) -> JobOut:
        """The wire form."""
        same = ("id", "project", "organisation", "user", "queue", "state", "place", "priority", "is_held")
        marks = (
            "is_interactive",
            "begin_at",
            "preemptions",
            "is_cancel_requested",
            "is_simulated",
            "attempts",
            "exit_code",
            "exit_signal",
            "exit_error",
        )
        times = ("gpu_seconds", "submitted_at", "back_off_until", "first_started_at", "finished_at")
        asked = (
            "gpus",
            "nodes",
            "walltime_s",
            "memory_bytes_per_rank",
            "topology_required",
            "topology_preferred",
            "placement",
            "cpus_per_gpu",
            "memory_bytes_per_gpu",
        )
        text, request, array = job.text, job.request, job.array
        return cls(
            **{name: getattr(job, name) for name in (*same, *marks, *times)},
            **{name: getattr(request, name) for name in asked},
            name=None if text is None else text.name,
            command=None if text is None else list(text.command),
            env=None if text is None else dict(text.env),
            outputs=None if text is None else list(text.outputs),
            reason=reason,
            exit_error_text=exit_error_text,
            flavors=list(request.flavors),
            node_labels=dict(request.node_labels),
            bundle=job.bundle_digest,
            depends_on=[DependencyOut(job_id=job_id, kind=kind) for job_id, kind in job.depends_on],
            array=None if array is None else ArrayOut(id=array.id, index=job.array_index or 0, cap=array.cap),
            planned_start=None if job.planned_start is None else PlannedStartOut.of(job.planned_start),
            slots=[SlotOut(node=slot.node, gpu_uuids=list(slot.gpu_uuids)) for slot in job.slots],
            attempt=None if job.attempt is None else AttemptOut.of(job.attempt),
        )


class EventOut(BaseModel):
    """A record of the journal about a job."""

    id: int
    at: datetime
    kind: str
    actor: str
    data: dict[str, object]

    @classmethod
    def of(cls, record: Record) -> EventOut:
        """The wire form."""
        return cls(id=record.id, at=record.at, kind=record.kind, actor=record.actor, data=dict(record.data))


class EventsOut(BaseModel):
    """Records about a job, by id; `next_after` continues, null when there is no more for now."""

    items: list[EventOut]
    next_after: int | None


class OutputOut(BaseModel):
    """A file a job kept, with the digest that the node's agent computed."""

    attempt_id: str
    rank: int
    path: str
    size_bytes: int
    sha256: str
    created_at: datetime

    @classmethod
    def of(cls, found: ArtefactView) -> OutputOut:
        """The wire form."""
        return cls(
            attempt_id=found.attempt_id,
            rank=found.rank,
            path=found.path,
            size_bytes=found.size_bytes,
            sha256=found.digest,
            created_at=found.created_at,
        )


class NodeOut(BaseModel):
    """A node of the machine."""

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
    labels: dict[str, str]
    isolation: list[str]
    last_seen_at: datetime


class ClusterOut(BaseModel):
    """The machine; `is_simulated` when any of its GPUs is simulated."""

    is_simulated: bool
    gpus: int
    busy: int
    free: int
    down: int
    nodes: list[NodeOut]

    @classmethod
    def of(cls, found: ClusterView) -> ClusterOut:
        """The wire form."""
        nodes = []
        for node in found.nodes:
            plain = {name: getattr(node, name) for name in NodeOut.model_fields if name not in _OWN}
            nodes.append(NodeOut(**plain, labels=dict(node.labels), isolation=list(node.isolation)))
        return cls(
            is_simulated=found.is_simulated,
            gpus=found.gpus,
            busy=found.busy,
            free=found.free,
            down=found.down,
            nodes=nodes,
        )


_OWN = frozenset({"labels", "isolation"})
