"""Windows: nodes that operators set apart for a time, as frozen values of the core."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from uuid import UUID


class WindowKind(StrEnum):
    """Why nodes are out of the common use for a time."""

    MAINTENANCE = "maintenance"
    RESERVATION = "reservation"


@dataclass(frozen=True, slots=True)
class Window:
    """Nodes set apart for [from_ms, to_ms) by an operator. `projects` may use them all the same."""

    id: str
    kind: WindowKind
    nodes: frozenset[str]
    from_ms: int
    to_ms: int
    projects: frozenset[UUID] = frozenset()
