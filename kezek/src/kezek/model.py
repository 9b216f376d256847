"""What the platform says, as frozen values. `raw` is the platform's own object, for whoever wants it as it came."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Self

from kezek.fields import Fields, Json
from kezek.slices import SliceUse

FINAL_STATES = frozenset({"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY"})
"""States a job does not leave."""
PLACED_STATES = frozenset({"ADMITTED", "RUNNING", "COMPLETING"})
"""States in which a job holds GPUs."""
WAITING = "PENDING"
"""State of a job that waits in its queue."""
COMPLETED = "COMPLETED"
"""The one final state that is a success."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRequest:
    """A job to be submitted.

    Args:
        project: short name of the project.
        command: program and arguments; no shell is in between.
        gpus: GPUs in all, 1 or more.
        name: shown in lists.
        nodes: exactly so many nodes with gpus / nodes on each; None = the platform chooses.
        walltime_s: longest run in seconds; None = the queue's default.
        flavors: acceptable kinds of GPU by preference; empty = those the project has grants of.
        memory_bytes_per_rank: a rank above it is stopped, and above what `memory_bytes_per_gpu` comes to.
        node_labels: labels that every node of the job has.
        topology_required: level of the topology: all nodes in one domain of it.
        topology_preferred: level of the topology: one domain of it, else of the next wider one, else any nodes.
        placement: "pack" takes the fullest nodes that hold the job, "spread" the emptiest.
        cpus_per_gpu: CPUs for each GPU; None = the node's share.
        memory_bytes_per_gpu: memory for each GPU; None = the node's share.
        env: environment variables.
        outputs: patterns of files to keep, relative to the working folder.
        is_interactive: it waits for a person by nature: the idle policy leaves it alone.
        begin_at: start no earlier, aware.
        depends_on: objects with `job_id` and `kind` (afterok, afterany, afternotok).
        array: object with `count` and `cap`; None = one job.
        priority: order among the queue's own jobs; above 0 needs an operator.
        is_held: wait until released.
    """

    project: str
    command: tuple[str, ...]
    gpus: int
    name: str = "job"
    nodes: int | None = None
    walltime_s: int | None = None
    flavors: tuple[str, ...] = ()
    memory_bytes_per_rank: int | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    outputs: tuple[str, ...] = ()
    is_interactive: bool = False
    begin_at: datetime | None = None
    depends_on: tuple[Mapping[str, object], ...] = ()
    array: Mapping[str, object] | None = None
    priority: int = 0
    is_held: bool = False
    node_labels: Mapping[str, str] = field(default_factory=dict)
    topology_required: str | None = None
    topology_preferred: str | None = None
    placement: str = "pack"
    cpus_per_gpu: int | None = None
    memory_bytes_per_gpu: int | None = None

    def document(self, bundle: str | None) -> dict[str, object]:
        """The body of the request; `bundle` is the digest of the uploaded code."""
        return {
            "project": self.project,
            "name": self.name,
            "command": list(self.command),
            "gpus": self.gpus,
            "nodes": self.nodes,
            "walltime_s": self.walltime_s,
            "flavors": list(self.flavors),
            "memory_bytes_per_rank": self.memory_bytes_per_rank,
            "env": dict(self.env),
            "outputs": list(self.outputs),
            "is_interactive": self.is_interactive,
            "bundle": bundle,
            "begin_at": None if self.begin_at is None else self.begin_at.isoformat(),
            "depends_on": [dict(one) for one in self.depends_on],
            "array": None if self.array is None else dict(self.array),
            "priority": self.priority,
            "is_held": self.is_held,
            "node_labels": dict(self.node_labels),
            "topology_required": self.topology_required,
            "topology_preferred": self.topology_preferred,
            "placement": self.placement,
            "cpus_per_gpu": self.cpus_per_gpu,
            "memory_bytes_per_gpu": self.memory_bytes_per_gpu,
        }


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a job waits: a stable code, its figures, and both as a sentence in the language asked for."""

    code: str
    numbers: Mapping[str, int | str]
    text: str


@dataclass(frozen=True, slots=True)
class Rank:
    """One rank of an attempt: its node, its GPUs by UUID, and its exit once it ended."""

    rank: int
    node: str
    gpu_uuids: tuple[str, ...]
    exit_code: int | None
    signal: int | None
    error: str | None

    @classmethod
    def of(cls, fields: Fields) -> Self:
        """Read the platform's object.

        Raises:
            ProtocolError: a field is missing or of another type.
        """
        return cls(
            fields.integer("rank"),
            fields.text("node"),
            fields.texts("gpu_uuids"),
            fields.optional_integer("exit_code"),
            fields.optional_integer("signal"),
            fields.optional_text("error"),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A job as the platform sees it now.

    Attributes:
        name: None for a caller who reads figures only; so is `command`.
        place: jobs ahead in its queue, 0 = the next; None when it does not wait.
        is_simulated: whether its GPUs are simulated; None before it got any.
        ranks: those of the current or last attempt; empty before the first.
        exit_error_text: what `exit_error` means, in the language asked for.
        gpu_seconds: device-seconds charged so far.
    """

    id: int
    project: str
    queue: str
    state: str
    name: str | None
    command: tuple[str, ...] | None
    reason: Reason | None
    place: int | None
    gpus: int
    nodes: int | None
    walltime_s: int
    flavors: tuple[str, ...]
    is_held: bool
    is_interactive: bool
    is_cancel_requested: bool
    is_simulated: bool | None
    attempts: int
    ranks: tuple[Rank, ...]
    started_at: datetime | None
    exit_code: int | None
    exit_signal: int | None
    exit_error: str | None
    exit_error_text: str | None
    gpu_seconds: int
    submitted_at: datetime
    first_started_at: datetime | None
    finished_at: datetime | None
    raw: Json = field(repr=False, compare=False)

    @property
    def is_final(self) -> bool:
        """Whether the job has ended for good."""
        return self.state in FINAL_STATES

    @property
    def is_placed(self) -> bool:
        """Whether it holds the GPUs of its ranks now."""
        return self.state in PLACED_STATES

    @property
    def is_completed(self) -> bool:
        """Whether every rank ended well."""
        return self.state == COMPLETED

    @classmethod
    def of(cls, fields: Fields) -> Self:
        """Read the platform's object.

        Raises:
            ProtocolError: a field is missing or of another type.
        """
        attempt = fields.optional_inner("attempt")
        reason = fields.optional_inner("reason")
        return cls(
            id=fields.integer("id"),
            project=fields.text("project"),
            queue=fields.text("queue"),
            state=fields.text("state"),
            name=fields.optional_text("name"),
            command=None if fields.raw.get("command") is None else fields.texts("command"),
            reason=None
            if reason is None
            else Reason(reason.text("code"), reason.numbers("numbers"), reason.text("text")),
            place=fields.optional_integer("place"),
            gpus=fields.integer("gpus"),
            nodes=fields.optional_integer("nodes"),
            walltime_s=fields.integer("walltime_s"),
            flavors=fields.texts("flavors"),
            is_held=fields.flag("is_held"),
            is_interactive="is_interactive" in fields.raw and fields.flag("is_interactive"),
            is_cancel_requested=fields.flag("is_cancel_requested"),
            is_simulated=None if fields.raw.get("is_simulated") is None else fields.flag("is_simulated"),
            attempts=fields.integer("attempts"),
            ranks=() if attempt is None else tuple(map(Rank.of, attempt.objects("ranks"))),
            started_at=None if attempt is None else attempt.optional_instant("started_at"),
            exit_code=fields.optional_integer("exit_code"),
            exit_signal=fields.optional_integer("exit_signal"),
            exit_error=fields.optional_text("exit_error"),
            exit_error_text=fields.optional_text("exit_error_text"),
            gpu_seconds=fields.integer("gpu_seconds"),
            submitted_at=fields.instant("submitted_at"),
            first_started_at=fields.optional_instant("first_started_at"),
            finished_at=fields.optional_instant("finished_at"),
            raw=fields.raw,
        )


@dataclass(frozen=True, slots=True)
class Output:
    """A file a job kept; `digest` is the SHA-256 (hex) that its node computed when it was kept."""

    attempt_id: str
    rank: int
    path: str
    size_bytes: int
    digest: str
    raw: Json = field(repr=False, compare=False)

    @classmethod
    def of(cls, fields: Fields) -> Self:
        """Read the platform's object.

        Raises:
            ProtocolError: a field is missing or of another type.
        """
        return cls(
            fields.text("attempt_id"),
            fields.integer("rank"),
            fields.text("path"),
            fields.integer("size_bytes"),
            fields.text("sha256"),
            fields.raw,
        )


@dataclass(frozen=True, slots=True)
class Node:
    """A node of the machine and its GPUs: `busy` are held, `free` could be, `down` are neither; and its labels."""

    name: str
    flavor: str
    state: str
    is_simulated: bool
    gpus: int
    busy: int
    free: int
    down: int
    labels: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, fields: Fields) -> Self:
        """Read the platform's object.

        Raises:
            ProtocolError: a field is missing or of another type.
        """
        return cls(
            fields.text("name"),
            fields.text("flavor"),
            fields.text("state"),
            fields.flag("is_simulated"),
            fields.integer("gpus"),
            fields.integer("busy"),
            fields.integer("free"),
            fields.integer("down"),
            fields.names("labels") if "labels" in fields.raw else {},
        )


@dataclass(frozen=True, slots=True)
class Cluster:
    """The machine; `is_simulated` when any of its GPUs is simulated."""

    is_simulated: bool
    gpus: int
    busy: int
    free: int
    down: int
    nodes: tuple[Node, ...]
    raw: Json = field(repr=False, compare=False)

    @classmethod
    def of(cls, fields: Fields) -> Self:
        """Read the platform's object.

        Raises:
            ProtocolError: a field is missing or of another type.
        """
        return cls(
            fields.flag("is_simulated"),
            fields.integer("gpus"),
            fields.integer("busy"),
            fields.integer("free"),
            fields.integer("down"),
            tuple(map(Node.of, fields.objects("nodes"))),
            fields.raw,
        )


@dataclass(frozen=True, slots=True)
class Grant:
    """GPU time of one flavor for a project and a period, in device-seconds."""

    id: str
    project: str | None
    flavor: str
    starts_at: datetime
    ends_at: datetime
    granted_s: int
    used_s: int
    pending_s: int
    remaining_s: int

    @classmethod
    def of(cls, fields: Fields) -> Self:
        """Read the platform's object.

        Raises:
            ProtocolError: a field is missing or of another type.
        """
        balance = fields.inner("balance")
        return cls(
            fields.text("id"),
            fields.optional_text("project"),
            fields.text("flavor"),
            fields.instant("starts_at"),
            fields.instant("ends_at"),
            balance.integer("granted_s"),
            balance.integer("used_s"),
            balance.integer("pending_s"),
            balance.integer("remaining_s"),
        )


@dataclass(frozen=True, slots=True)
class Queue:
    """A node of the quota tree; GPUs and jobs are those below it. `path` is empty for the whole machine."""

    path: str
    nominal_gpus: int
    used_gpus: int
    running: int
    pending: int
    slices: tuple[SliceUse, ...] = ()

    @classmethod
    def of(cls, fields: Fields) -> Self:
        """Read the platform's object.

        Raises:
            ProtocolError: a field is missing or of another type.
        """
        return cls(
            fields.text("path"),
            fields.integer("nominal"),
            fields.integer("used_gpus"),
            fields.integer("running"),
            fields.integer("pending"),
            tuple(map(SliceUse.of, fields.objects("slices"))),
        )


@dataclass(frozen=True, slots=True)
class Quota:
    """What the caller's projects have: their grants, and the queues they are in."""

    grants: tuple[Grant, ...]
    queues: tuple[Queue, ...]
    raw: Json = field(repr=False, compare=False)

    @classmethod
    def of(cls, fields: Fields) -> Self:
        """Read the platform's object.

        Raises:
            ProtocolError: a field is missing or of another type.
        """
        return cls(
            tuple(map(Grant.of, fields.objects("grants"))),
            tuple(map(Queue.of, fields.objects("queues"))),
            fields.raw,
        )


@dataclass(frozen=True, slots=True)
class Me:
    """The caller, as the platform sees it; `roles` are platform roles, `projects` their short names."""

    name: str
    roles: tuple[str, ...]
    projects: tuple[str, ...]
    raw: Json = field(repr=False, compare=False)

    @classmethod
    def of(cls, fields: Fields) -> Self:
        """Read the platform's object.

        Raises:
            ProtocolError: a field is missing or of another type.
        """
        slugs = (project.optional_text("slug") for project in fields.objects("projects"))
        return cls(
            fields.text("name"),
            fields.texts("platform_roles"),
            tuple(slug for slug in slugs if slug is not None),
            fields.raw,
        )
