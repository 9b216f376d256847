"""Machines to replay a trace on, node by node: flavors, CPUs, memory and labels, from a file. Pure.

csv is this project's own form (node, flavor, gpus, and cpus, memory_bytes, labels where they are known); openb is the
node list of the Alibaba GPU cluster trace of 2023.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Final

from scheduler.model import Node, NodeState, Request
from scheduler.traces import MIB, TraceError, figure, labels_of

MAX_NODES: Final = 100_000
"""Nodes of one machine: eight times the largest that a cycle is measured at."""


def read_csv(lines: Iterable[str]) -> tuple[Node, ...]:
    """Read the project's own form; labels are `key=value|key=value`, an empty figure is not stated.

    Raises:
        TraceError: a column is missing, a figure is none, or a node has no GPU or another's name.
    """
    return _usable(
        (number, _node(row, number, "node", "flavor", "gpus"))
        for number, row in enumerate(csv.DictReader(lines), start=2)
    )


def read_openb(lines: Iterable[str]) -> tuple[Node, ...]:
    """Read the node list: nodes with GPUs, by their model; memory is in MiB and CPUs in thousandths.

    Raises:
        TraceError: a column is missing or a figure is none.
    """
    rows = [
        (number, row) for number, row in enumerate(csv.DictReader(lines), start=2) if row.get("gpu") != "0"
    ]
    return _usable(
        (
            number,
            replace(
                _node(row, number, "sn", "model", "gpu"),
                cpus=figure(row.get("cpu_milli"), "cpu_milli", number) // 1_000,
                memory_bytes=figure(row.get("memory_mib"), "memory_mib", number) * MIB,
            ),
        )
        for number, row in rows
    )


READERS: Final[Mapping[str, Callable[[Iterable[str]], tuple[Node, ...]]]] = {
    "csv": read_csv,
    "openb": read_openb,
}
"""Readers by the format of the trace."""


def _node(row: Mapping[str, str | None], number: int, name: str, flavor: str, gpus: str) -> Node:
    """One node, in service; `name`, `flavor` and `gpus` say in which columns these are."""
    own, kind = row.get(name), row.get(flavor)
    count = figure(row.get(gpus), gpus, number)
    if not own or not kind or count < 1:
        raise TraceError(number, f"a node needs {name}, {flavor} and {gpus} above 0")
    return Node(
        own,
        kind,
        tuple(f"{own}:{gpu}" for gpu in range(count)),
        NodeState.UP,
        is_simulated=True,
        labels=labels_of(row.get("labels"), number),
        cpus=figure(row["cpus"], "cpus", number) if row.get("cpus") else None,
        memory_bytes=figure(row["memory_bytes"], "memory_bytes", number) if row.get("memory_bytes") else None,
    )


def _usable(found: Iterable[tuple[int, Node]]) -> tuple[Node, ...]:
    """The nodes by name."""
    nodes: dict[str, Node] = {}
    for number, node in found:
        if node.name in nodes:
            raise TraceError(number, f"node {node.name} is there twice")
        if len(nodes) >= MAX_NODES:
            raise TraceError(number, f"the machine has more than {MAX_NODES} nodes")
        nodes[node.name] = node
    return tuple(nodes[name] for name in sorted(nodes))


def uniform(nodes: int, gpus_per_node: int, flavor: str) -> tuple[Node, ...]:
    """Nodes that are all alike and state nothing but their GPUs."""
    return tuple(
        Node(
            name,
            flavor,
            tuple(f"{name}:{gpu}" for gpu in range(gpus_per_node)),
            NodeState.UP,
            is_simulated=True,
        )
        for name in (f"n{number:05}" for number in range(nodes))
    )


def as_up(nodes: Iterable[Node]) -> tuple[Node, ...]:
    """The same nodes, all up and simulated; drained ones are left out."""
    return tuple(
        replace(node, state=NodeState.UP, is_simulated=True)
        for node in nodes
        if node.is_in_service and node.gpu_uuids
    )


def asked_on(request: Request, flavors: tuple[str, ...]) -> Request:
    """A request that names no flavor takes any of these."""
    return request if request.flavors else replace(request, flavors=flavors)
