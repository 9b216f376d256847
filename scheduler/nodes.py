"""The inventory of nodes: registered by what their agents report, up while they are heard of, else down."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final, cast

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from scheduler.dispatch.wire import NodeProbe
from scheduler.fields import state_of
from scheduler.model import NodeState
from scheduler.tables import GpuRow, NodeRow
from store import journal
from store.engine import wake


class NodeRefusedError(ValueError):
    """A node that cannot be taken into the inventory as its agent describes it."""

    def __init__(self, node: str, why: str) -> None:
        super().__init__(f"node {node}: {why}")
        self.node = node


class NodeNotFoundError(LookupError):
    """There is no such node."""

    code: Final = "NODE_NOT_FOUND"


@dataclass(frozen=True, slots=True)
class NodeService:
    """Whether a node takes work, and of one that was drained since when and why."""

    name: str
    state: NodeState
    reason: str | None
    drained_at: datetime | None


def in_service(session: Session) -> list[NodeService]:
    """Every node, by name. O(nodes)."""
    return [_service(row) for row in session.scalars(select(NodeRow).order_by(NodeRow.name))]


def service_of(session: Session, node: str) -> NodeService:
    """Whether one node takes work.

    Raises:
        NodeNotFoundError: there is no such node.
    """
    row = session.get(NodeRow, node)
    if row is None:
        raise NodeNotFoundError(f"there is no node {node}; list the nodes to find its name")
    return _service(row)


def _service(row: NodeRow) -> NodeService:
    return NodeService(row.name, NodeState(row.state), row.drain_reason, row.drained_at)


class AgentsFile:
    """The agents' addresses by node, from `agents.json`; read again when it changes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._mark: tuple[int, int] | None = None
        self._urls: dict[str, str] = {}

    def __call__(self) -> Mapping[str, str]:
        """Return the addresses; none while there is no file.

        Raises:
            ValueError: the file is not an object of texts.
        """
        try:
            state = self._path.stat()
        except FileNotFoundError:
            self._mark, self._urls = None, {}
            return self._urls
        mark = (state.st_mtime_ns, state.st_ino)
        if mark != self._mark:
            found: object = json.loads(self._path.read_text("utf-8"))
            if not isinstance(found, dict) or not all(isinstance(url, str) for url in found.values()):
                raise ValueError(f"{self._path} must hold an object of node names and agents' URLs")
            self._mark, self._urls = mark, cast("dict[str, str]", found)
        return self._urls


def register(session: Session, probe: NodeProbe, url: str, *, at: datetime, actor: str) -> bool:
    """Take a node as its agent describes it into the inventory; True when that changed something.

    A node an operator drained stays so. GPUs it reports no more stay on record for the allocations they had.

    Raises:
        NodeRefusedError: it has no GPUs, or GPUs of several flavors.
    """
    flavors = {gpu.flavor for gpu in probe.gpus}
    if len(flavors) != 1:
        raise NodeRefusedError(
            probe.node, f"its GPUs have {len(flavors)} flavors; a node has GPUs of exactly one"
        )
    row = session.scalars(select(NodeRow).where(NodeRow.name == probe.node).with_for_update()).one_or_none()
    was = None if row is None else (*_described(row), _gpu_uuids(session, row.name))
    if row is None:
        row = NodeRow(name=probe.node, state=NodeState.UP.value, registered_at=at)
        session.add(row)
    was_down = row.state == NodeState.DOWN.value
    row.url = url
    row.flavor = flavors.pop()
    row.is_simulated = probe.simulated
    row.cpus, row.memory_bytes = probe.cpus, probe.memory_bytes
    row.labels, row.isolation = dict(probe.labels), list(probe.isolation)
    row.last_seen_at = at
    if was_down:
        row.state = state_of(is_down=False, is_drained=row.drained_at is not None).value
    session.flush()
    uuids = [gpu.uuid for gpu in sorted(probe.gpus, key=lambda gpu: gpu.index)]
    is_changed = was != (*_described(row), uuids)
    if is_changed:
        _write_gpus(session, probe)
        data: dict[str, object] = {
            "flavor": row.flavor,
            "gpu_uuids": uuids,
            "is_simulated": row.is_simulated,
            "labels": dict(row.labels),
            "state": row.state,
            "is_drained": row.drained_at is not None,
            "cpus": row.cpus,
            "memory_bytes": row.memory_bytes,
        }
        journal.append(session, "node.registered", f"node:{row.name}", actor=actor, at=at, data=data)
    if was_down:
        journal.append(session, "node.up", f"node:{row.name}", actor=actor, at=at, data={})
    if is_changed or was_down:
        wake(session)
    return is_changed or was_down


def _described(row: NodeRow) -> tuple[str, bool, dict[str, str], int, int]:
    return row.flavor, row.is_simulated, dict(row.labels), row.cpus, row.memory_bytes


def _gpu_uuids(session: Session, node: str) -> list[str]:
    statement = select(GpuRow.uuid).where(GpuRow.node == node, GpuRow.is_present).order_by(GpuRow.index)
    return list(session.scalars(statement))


def _write_gpus(session: Session, probe: NodeProbe) -> None:
    """Make the node's present GPUs exactly the reported ones."""
    reported = {gpu.uuid: gpu for gpu in probe.gpus}
    session.execute(update(GpuRow).where(GpuRow.node == probe.node).values(is_present=False))
    known = {
        row.uuid: row
        for row in session.scalars(
            select(GpuRow).where(GpuRow.uuid.in_(reported)).execution_options(populate_existing=True)
        )
    }
    for uuid, gpu in reported.items():
        row = known.get(uuid)
        if row is None:
            session.add(
                GpuRow(uuid=uuid, node=probe.node, index=gpu.index, flavor=gpu.flavor, is_present=True)
            )
        else:
            row.node, row.index, row.flavor, row.is_present = probe.node, gpu.index, gpu.flavor, True
    session.flush()


def hear(session: Session, nodes: Iterable[str], at: datetime) -> None:
    """Note when nodes were heard of last."""
    session.execute(update(NodeRow).where(NodeRow.name.in_(list(nodes))).values(last_seen_at=at))


def mark_down(session: Session, node: str, *, at: datetime, actor: str) -> bool:
    """A node was silent too long: it takes no work. False when it was down already.

    A drained one too, since what ran there must not wait for it; heard of again, it is drained as before.
    """
    row = session.scalars(select(NodeRow).where(NodeRow.name == node).with_for_update()).one_or_none()
    if row is None or row.state == NodeState.DOWN.value:
        return False
    row.state = NodeState.DOWN.value
    silent_s = int((at - row.last_seen_at).total_seconds())
    journal.append(session, "node.down", f"node:{node}", actor=actor, at=at, data={"silent_s": silent_s})
    return True


def drain(session: Session, node: str, *, at: datetime, actor: str, reason: str | None = None) -> bool:
    """Take a node out of service by an operator's act: it gets no new work and leaves the capacity.

    The reason's text stands beside the node while it is drained; the journal has its SHA-256.

    Returns:
        Whether there is such a node in service.
    """
    row = session.scalars(select(NodeRow).where(NodeRow.name == node).with_for_update()).one_or_none()
    if row is None or row.drained_at is not None:
        return False
    row.drained_at, row.drain_reason = at, reason
    row.state = state_of(is_down=row.state == NodeState.DOWN.value, is_drained=True).value
    data = {} if reason is None else {"reason_digest": hashlib.sha256(reason.encode()).hexdigest()}
    journal.append(session, "node.drained", f"node:{node}", actor=actor, at=at, data=data)
    wake(session)
    return True


def resume(session: Session, node: str, *, at: datetime, actor: str) -> bool:
    """Put a drained node back into service; False when it is not drained. A silent one stays down until heard of."""
    row = session.scalars(select(NodeRow).where(NodeRow.name == node).with_for_update()).one_or_none()
    if row is None or row.drained_at is None:
        return False
    row.drained_at, row.drain_reason = None, None
    row.state = state_of(is_down=row.state == NodeState.DOWN.value, is_drained=False).value
    journal.append(session, "node.resumed", f"node:{node}", actor=actor, at=at, data={})
    wake(session)
    return True
