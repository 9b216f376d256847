"""A node as its agent describes it. Exported through `wire`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from scheduler.dispatch.fields import Fields
from scheduler.dispatch.limits import (
    ATTEMPT_ID,
    FLAVOR,
    GPU_UUID,
    LABEL_NAME,
    MAX_ATTEMPTS,
    MAX_GPUS_PER_NODE,
    MAX_INT,
    MAX_LABELS,
)


@dataclass(frozen=True, slots=True)
class GpuSlot:
    """A GPU (or MIG slice) of a node: identity, index at the driver, flavor."""

    uuid: str
    index: int
    flavor: str

    def to_json(self) -> dict[str, object]:
        """The wire form."""
        return {"uuid": self.uuid, "index": self.index, "flavor": self.flavor}

    @classmethod
    def from_json(cls, value: object, where: str = "") -> GpuSlot:
        """Read the wire form.

        Raises:
            WireError: not that form.
        """
        f = Fields(value, where)
        return cls(
            f.text("uuid", GPU_UUID), f.integer("index", 0, MAX_GPUS_PER_NODE - 1), f.text("flavor", FLAVOR)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeProbe:
    """A node as its agent describes it.

    Attributes:
        node: its name.
        boot_id: see `EventPage`.
        agent_version: version of the agent's protocol.
        gpus: its GPUs by index.
        simulated: whether they are simulated.
        cpus: processors the agent may use.
        memory_bytes: memory of the machine.
        labels: the node's labels.
        isolation: protections in force around a rank, as ``landlock:7``; empty means none.
        highest_epoch: highest epoch seen; commands below it are refused.
        draining: whether launches are refused by an operator's act.
        attempts: attempts on record, alive or not, by name.
        latest_seq: number of the last event, 0 when there is none.
    """

    node: str
    boot_id: str
    agent_version: str
    gpus: tuple[GpuSlot, ...]
    simulated: bool
    cpus: int
    memory_bytes: int
    labels: Mapping[str, str] = field(default_factory=dict)
    isolation: tuple[str, ...] = ()
    highest_epoch: int = 0
    draining: bool = False
    attempts: tuple[str, ...] = ()
    latest_seq: int = 0

    def to_json(self) -> dict[str, object]:
        """The wire form."""
        return {
            "node": self.node,
            "boot_id": self.boot_id,
            "agent_version": self.agent_version,
            "gpus": [g.to_json() for g in self.gpus],
            "simulated": self.simulated,
            "cpus": self.cpus,
            "memory_bytes": self.memory_bytes,
            "labels": dict(self.labels),
            "isolation": list(self.isolation),
            "highest_epoch": self.highest_epoch,
            "draining": self.draining,
            "attempts": list(self.attempts),
            "latest_seq": self.latest_seq,
        }

    @classmethod
    def from_json(cls, value: object) -> NodeProbe:
        """Read the wire form.

        Raises:
            WireError: not that form.
        """
        f = Fields(value)
        return cls(
            node=f.text("node"),
            boot_id=f.text("boot_id"),
            agent_version=f.text("agent_version"),
            gpus=tuple(GpuSlot.from_json(v, p) for p, v in f.items("gpus", MAX_GPUS_PER_NODE)),
            simulated=f.flag("simulated"),
            cpus=f.integer("cpus", 1, MAX_INT),
            memory_bytes=f.integer("memory_bytes", 1, MAX_INT),
            labels=f.mapping("labels", MAX_LABELS, LABEL_NAME),
            isolation=f.texts("isolation", MAX_LABELS),
            highest_epoch=f.integer("highest_epoch", 0, MAX_INT),
            draining=f.flag("draining"),
            attempts=f.texts("attempts", MAX_ATTEMPTS, ATTEMPT_ID),
            latest_seq=f.integer("latest_seq", 0, MAX_INT),
        )
