"""The messages between the scheduler and the node agents: frozen values with strict JSON forms.

Commands stand here, the facts that come back in `facts` and `node`; all are imported from here.

Instants are seconds since the epoch (float) on the wire and aware UTC datetimes inside. A reader
refuses unknown fields, so that the two sides never disagree in silence.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from scheduler.dispatch.facts import (
    AttemptEvent,
    AttemptStatus,
    EventKind,
    EventPage,
    LaunchReceipt,
    LogPage,
    OutputFile,
    RankExit,
    RankStatus,
)
from scheduler.dispatch.fields import Fields, WireError
from scheduler.dispatch.limits import (
    ATTEMPT_ID,
    ENV_NAME,
    FLAVOR,
    GPU_UUID,
    MAX_COMMAND_ARGS,
    MAX_CPUS_PER_RANK,
    MAX_ENV_ENTRIES,
    MAX_GPUS_PER_NODE,
    MAX_INT,
    MAX_KILL_WAIT_S,
    MAX_OUTPUT_GLOBS,
    MAX_RANKS_PER_NODE,
    MAX_WALLTIME_S,
    MAX_WORLD_SIZE,
    SHA256_HEX,
)
from scheduler.dispatch.node import GpuSlot, NodeProbe

__all__ = [
    "AgentCode",
    "AttemptEvent",
    "AttemptStatus",
    "EventKind",
    "EventPage",
    "GpuSlot",
    "LaunchReceipt",
    "Lease",
    "LogPage",
    "NodeProbe",
    "OutputFile",
    "PrepareRequest",
    "Prepared",
    "RankExit",
    "RankLease",
    "RankStatus",
    "Signal",
    "WireError",
]


class Signal(StrEnum):
    """What a rank can be told."""

    CHECKPOINT = "checkpoint"  # SIGUSR1 to the rank itself
    TERM = "term"  # SIGTERM to the rank's process group, SIGKILL after `kill_after_s`
    KILL = "kill"  # SIGKILL to every process of the rank


class AgentCode(StrEnum):
    """Stable codes with which an agent refuses a command."""

    UNAUTHORIZED = "UNAUTHORIZED"
    STALE_EPOCH = "STALE_EPOCH"
    BAD_REQUEST = "BAD_REQUEST"
    BODY_TOO_LARGE = "BODY_TOO_LARGE"
    NOT_FOUND = "NOT_FOUND"
    BUNDLE_MISSING = "BUNDLE_MISSING"
    BUNDLE_INVALID = "BUNDLE_INVALID"
    DIGEST_MISMATCH = "DIGEST_MISMATCH"
    LEASE_MISMATCH = "LEASE_MISMATCH"
    GPU_UNKNOWN = "GPU_UNKNOWN"
    GPU_BUSY = "GPU_BUSY"
    ATTEMPT_ALIVE = "ATTEMPT_ALIVE"
    DRAINING = "DRAINING"
    NO_PORT = "NO_PORT"
    INTERNAL = "INTERNAL"


@dataclass(frozen=True, slots=True)
class RankLease:
    """One rank of an attempt and the GPUs it gets, in the order of `CUDA_VISIBLE_DEVICES`."""

    rank: int
    gpu_uuids: tuple[str, ...]

    def to_json(self) -> dict[str, object]:
        """The wire form."""
        return {"rank": self.rank, "gpu_uuids": list(self.gpu_uuids)}

    @classmethod
    def from_json(cls, value: object, where: str = "") -> RankLease:
        """Read the wire form.

        Raises:
            WireError: not that form.
        """
        f = Fields(value, where)
        found = cls(
            rank=f.integer("rank", 0, MAX_WORLD_SIZE - 1),
            gpu_uuids=f.texts("gpu_uuids", MAX_GPUS_PER_NODE, GPU_UUID),
        )
        f.done()
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """The right of one attempt to run its ranks on one node, until its walltime ends.

    Attributes:
        attempt_id: name of the attempt, the key of idempotence; a path component.
        job_id: the job, for the rank's environment.
        epoch: fencing epoch of the scheduler that gave the lease.
        bundle: SHA-256 (hex) of the user's files, None when there are none.
        command: argument vector; the first is looked up on the rank's PATH.
        env: the user's own variables; the platform's win.
        outputs: patterns of files to keep, relative to the scratch directory.
        walltime_s: run time after which the rank gets SIGTERM [s].
        kill_wait_s: time from that SIGTERM to SIGKILL [s].
        memory_bytes_per_rank: resident memory at which a rank is killed, None for no limit.
        cpus_per_rank: CPUs that each rank has for its own, None: it shares what is left of the node's.
        world_size: ranks of the whole attempt over all nodes.
        master_addr: address of rank 0's node.
        master_port: port kept free there for the attempt.
        ranks: the ranks of *this* node.
        flavor: kind of the GPUs.
        simulated: whether the GPUs are simulated.
    """

    attempt_id: str
    job_id: int
    epoch: int
    command: tuple[str, ...]
    ranks: tuple[RankLease, ...]
    world_size: int
    master_addr: str
    master_port: int
    walltime_s: int
    kill_wait_s: int
    flavor: str
    simulated: bool
    bundle: str | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    outputs: tuple[str, ...] = ()
    memory_bytes_per_rank: int | None = None
    cpus_per_rank: int | None = None

    def to_json(self) -> dict[str, object]:
        """The wire form; what no agent before knew is left out where it says nothing."""
        cpus = {} if self.cpus_per_rank is None else {"cpus_per_rank": self.cpus_per_rank}
        return cpus | {
            "attempt_id": self.attempt_id,
            "job_id": self.job_id,
            "epoch": self.epoch,
            "bundle": self.bundle,
            "command": list(self.command),
            "env": dict(self.env),
            "outputs": list(self.outputs),
            "walltime_s": self.walltime_s,
            "kill_wait_s": self.kill_wait_s,
            "memory_bytes_per_rank": self.memory_bytes_per_rank,
            "world_size": self.world_size,
            "master_addr": self.master_addr,
            "master_port": self.master_port,
            "ranks": [r.to_json() for r in self.ranks],
            "flavor": self.flavor,
            "simulated": self.simulated,
        }

    @classmethod
    def from_json(cls, value: object) -> Lease:
        """Read the wire form.

        Raises:
            WireError: not that form, no command, no rank, or a rank outside the world.
        """
        f = Fields(value)
        found = cls(
            attempt_id=f.text("attempt_id", ATTEMPT_ID),
            job_id=f.integer("job_id", 0, MAX_INT),
            epoch=f.integer("epoch", 0, MAX_INT),
            bundle=f.optional_text("bundle", SHA256_HEX),
            command=f.texts("command", MAX_COMMAND_ARGS),
            env=f.mapping("env", MAX_ENV_ENTRIES, ENV_NAME),
            outputs=f.texts("outputs", MAX_OUTPUT_GLOBS),
            walltime_s=f.integer("walltime_s", 1, MAX_WALLTIME_S),
            kill_wait_s=f.integer("kill_wait_s", 0, MAX_KILL_WAIT_S),
            memory_bytes_per_rank=f.optional_integer("memory_bytes_per_rank", 1, MAX_INT),
            cpus_per_rank=f.optional_integer("cpus_per_rank", 1, MAX_CPUS_PER_RANK),
            world_size=f.integer("world_size", 1, MAX_WORLD_SIZE),
            master_addr=f.text("master_addr"),
            master_port=f.integer("master_port", 1, 65_535),
            ranks=tuple(RankLease.from_json(v, p) for p, v in f.items("ranks", MAX_RANKS_PER_NODE)),
            flavor=f.text("flavor", FLAVOR),
            simulated=f.flag("simulated"),
        )
        f.done()
        found.check()
        return found

    def check(self) -> None:
        """What no single field can tell.

        Raises:
            WireError: no command, no rank, a rank outside the world or named twice, a GPU
                given to two ranks, a pattern that leaves the scratch directory.
        """
        if not self.command or not self.command[0]:
            raise WireError("command", "expected a program and its arguments, got nothing")
        for pattern in self.outputs:
            if not pattern or pattern.startswith("/") or ".." in pattern.split("/"):
                raise WireError("outputs", f"{pattern[:80]!r} must stay below the job's folder")
        numbers = [r.rank for r in self.ranks]
        if not numbers or len(set(numbers)) != len(numbers):
            raise WireError("ranks", "expected at least one rank and each only once")
        if max(numbers) >= self.world_size:
            raise WireError("ranks", f"rank {max(numbers)} is outside the world of {self.world_size}")
        gpus = [uuid for r in self.ranks for uuid in r.gpu_uuids]
        if len(set(gpus)) != len(gpus):
            raise WireError("ranks", "one GPU is given twice")


@dataclass(frozen=True, slots=True, kw_only=True)
class PrepareRequest:
    """First phase of a gang's launch: hold GPUs and, at rank 0's node, a port.

    Attributes:
        attempt_id: name of the attempt.
        gpu_uuids: GPUs to hold for it until launch or the reservation's end.
        wants_endpoint: whether this node is rank 0's and shall keep a port.
        bundle: SHA-256 of the bundle the launch will name; the answer says if it is there.
    """

    attempt_id: str
    gpu_uuids: tuple[str, ...] = ()
    wants_endpoint: bool = False
    bundle: str | None = None

    def to_json(self) -> dict[str, object]:
        """The wire form."""
        return {
            "attempt_id": self.attempt_id,
            "gpu_uuids": list(self.gpu_uuids),
            "wants_endpoint": self.wants_endpoint,
            "bundle": self.bundle,
        }

    @classmethod
    def from_json(cls, value: object) -> PrepareRequest:
        """Read the wire form.

        Raises:
            WireError: not that form.
        """
        f = Fields(value)
        found = cls(
            attempt_id=f.text("attempt_id", ATTEMPT_ID),
            gpu_uuids=f.texts("gpu_uuids", MAX_GPUS_PER_NODE, GPU_UUID),
            wants_endpoint=f.flag("wants_endpoint"),
            bundle=f.optional_text("bundle", SHA256_HEX),
        )
        f.done()
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """Answer to `PrepareRequest`; address and port only where an endpoint was asked for."""

    attempt_id: str
    has_bundle: bool
    master_addr: str | None = None
    master_port: int | None = None

    def to_json(self) -> dict[str, object]:
        """The wire form."""
        return {
            "attempt_id": self.attempt_id,
            "has_bundle": self.has_bundle,
            "master_addr": self.master_addr,
            "master_port": self.master_port,
        }

    @classmethod
    def from_json(cls, value: object) -> Prepared:
        """Read the wire form.

        Raises:
            WireError: not that form.
        """
        f = Fields(value)
        return cls(
            attempt_id=f.text("attempt_id", ATTEMPT_ID),
            has_bundle=f.flag("has_bundle"),
            master_addr=f.optional_text("master_addr"),
            master_port=f.optional_integer("master_port", 1, 65_535),
        )
