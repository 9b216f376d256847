"""What an agent is told at its start."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from scheduler.agent.inventory import GpuInventory


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentConfig:
    """What an agent is told at its start.

    Attributes:
        node: the node's name.
        address: the node's address, on which ranks meet.
        state: directory of its state.
        job_env: environment ranks run in, with ``bin/python``.
        inventory: its GPUs.
        labels: the node's labels.
        hidden: the platform's folders with sockets, which ranks must not reach.
    """

    node: str
    address: str
    state: Path
    job_env: Path
    inventory: GpuInventory
    labels: Mapping[str, str]
    hidden: tuple[Path, ...] = ()

    @property
    def checkpoints(self) -> Path:
        """Where jobs save their work: beside the states of the machine's nodes, and shared with them."""
        return self.state.parent / ".checkpoints"
