"""The GPUs of a node: given by the caller (from NVML), or simulated."""

from __future__ import annotations

import uuid
from dataclasses import dataclass

from scheduler.dispatch.wire import GpuSlot

_SIMULATED = uuid.uuid5(uuid.NAMESPACE_DNS, "simulated.kezek.io")


@dataclass(frozen=True, slots=True)
class GpuInventory:
    """The GPUs an agent may give out, by index, and whether they are simulated."""

    gpus: tuple[GpuSlot, ...]
    simulated: bool

    @classmethod
    def simulate(cls, node: str, count: int, flavor: str) -> GpuInventory:
        """Simulated GPUs whose UUIDs follow from node and index, so that they outlive a restart."""
        gpus = tuple(GpuSlot(simulated_uuid(node, index), index, flavor) for index in range(count))
        return cls(gpus, simulated=True)


def simulated_uuid(node: str, index: int) -> str:
    """The UUID of a simulated GPU."""
    return f"GPU-{uuid.uuid5(_SIMULATED, f'kezek-simulated/{node}/{index}')}"
