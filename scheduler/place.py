"""Where a job runs: exact nodes and GPU UUIDs out of what is free.

Small jobs go to the fullest node that holds them, so that whole nodes stay whole for large ones.
Source: best fit of bin packing; Slurm's CR_LLN is its opposite and fragments.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

from scheduler.model import LiveAttempt, Node, NodeState, Slot

Choice = tuple[tuple[str, int], ...]
"""Node names and how many GPUs of each, in rank order."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What placement looks at: GPUs of one flavor, and over how many nodes (None = may span the fewest)."""

    flavor: str
    gpus: int
    nodes: int | None


class GpusTakenError(RuntimeError):
    """GPUs were to be taken that are not free: a broken rule of whoever asked.

    Args:
        slot: the slot that cannot be taken.
    """

    def __init__(self, slot: Slot) -> None:
        super().__init__(
            f"GPUs {', '.join(slot.gpu_uuids)} of node {slot.node} are not all free; place again"
        )
        self.slot = slot


class FreeView:
    """Free GPUs per node, and nodes by how many are free; working state of one cycle, and it only shrinks.

    Args:
        nodes: the nodes that count; GPUs in index order.
        held: UUIDs of GPUs that are not free.
    """

    def __init__(self, nodes: Iterable[Node], held: Collection[str] = frozenset()) -> None:
        self._nodes: dict[str, Node] = {node.name: node for node in nodes}
        self._free: dict[str, tuple[str, ...]] = {}
        self._by_room: dict[str, dict[int, list[str]]] = {}
        self._total: dict[str, int] = {}
        self._biggest: dict[str, int] = {}
        self._failed: set[Shape] = set()
        self._chosen: dict[Shape, Choice] = {}
        for name, node in sorted(self._nodes.items()):
            free = tuple(uuid for uuid in node.gpu_uuids if uuid not in held)
            self._free[name] = free
            self._by_room.setdefault(node.flavor, {}).setdefault(len(free), []).append(name)
            self._total[node.flavor] = self._total.get(node.flavor, 0) + len(free)
            self._biggest[node.flavor] = max(self._biggest.get(node.flavor, 0), len(node.gpu_uuids))

    @classmethod
    def of(cls, nodes: Iterable[Node], live: Iterable[LiveAttempt]) -> FreeView:
        """What is free now: nodes that are UP without the GPUs of live attempts. O(GPUs)."""
        held = frozenset(uuid for attempt in live for slot in attempt.slots for uuid in slot.gpu_uuids)
        return cls((node for node in nodes if node.state is NodeState.UP), held)

    @classmethod
    def in_service(cls, nodes: Iterable[Node]) -> FreeView:
        """What would be free were nothing running: every node but drained ones. O(GPUs)."""
        return cls(node for node in nodes if node.state is not NodeState.DRAINED)

    def copy(self) -> FreeView:
        """An independent view of the same; what is taken there stays free here."""
        return FreeView(
            self._nodes.values(),
            {
                uuid
                for name, node in self._nodes.items()
                for uuid in set(node.gpu_uuids) - set(self._free[name])
            },
        )

    @property
    def flavors(self) -> tuple[str, ...]:
        """Flavors of the nodes, sorted."""
        return tuple(sorted(self._total))

    def free(self, flavor: str) -> int:
        """Free GPUs of a flavor on all nodes."""
        return self._total.get(flavor, 0)

    def biggest(self, flavor: str) -> int:
        """GPUs of the largest node of a flavor, free or not; 0 where there is none."""
        return self._biggest.get(flavor, 0)

    def most_on(self, flavor: str, nodes: int | None) -> int:
        """The most GPUs that one job could get now on exactly `nodes` nodes, 1 or more (None = on any)."""
        if nodes is None:
            return self.free(flavor)
        rooms = [room for _, room in self.emptiest(flavor)][:nodes]
        return rooms[-1] * nodes if len(rooms) == nodes else 0

    def emptiest(self, flavor: str) -> Iterator[tuple[str, int]]:
        """Nodes with something free and how much, most first, ties by name."""
        by_room = self._by_room.get(flavor, {})
        for room in sorted(by_room, reverse=True):
            if room:
                yield from ((name, room) for name in by_room[room])

    def fullest(self, flavor: str, gpus: int) -> Iterator[tuple[str, int]]:
        """Nodes that hold `gpus` and what each has free, least first, ties by name."""
        by_room = self._by_room.get(flavor, {})
        for room in sorted(by_room):
            if room >= gpus:
                yield from ((name, room) for name in by_room[room])

    def is_whole(self, node: str) -> bool:
        """Whether every GPU of the node is free."""
        return len(self._free[node]) == len(self._nodes[node].gpu_uuids)

    def flavor_of(self, slots: Iterable[Slot]) -> str | None:
        """The one flavor of the slots' nodes if every GPU of them is free, else None."""
        flavors: set[str] = set()
        for slot in slots:
            if not slot.gpu_uuids or not set(slot.gpu_uuids) <= set(self._free.get(slot.node, ())):
                return None
            flavors.add(self._nodes[slot.node].flavor)
        return flavors.pop() if len(flavors) == 1 else None

    def slots(self, choice: Choice) -> tuple[Slot, ...]:
        """The chosen nodes' free GPUs with the lowest index."""
        return tuple(Slot(name, self._free[name][:gpus]) for name, gpus in choice)

    def take(self, slots: Iterable[Slot]) -> None:
        """Mark the slots' GPUs as held.

        Raises:
            GpusTakenError: a GPU is not free.
        """
        for slot in slots:
            before = self._free.get(slot.node, ())
            taken = set(slot.gpu_uuids)
            if not taken <= set(before):
                raise GpusTakenError(slot)
            after = tuple(uuid for uuid in before if uuid not in taken)
            flavor = self._nodes[slot.node].flavor
            self._free[slot.node] = after
            self._total[flavor] -= len(taken)
            peers = self._by_room[flavor][len(before)]
            del peers[bisect_left(peers, slot.node)]
            insort(self._by_room[flavor].setdefault(len(after), []), slot.node)
        self._chosen.clear()

    def choose(self, shape: Shape) -> Choice | None:
        """Nodes for a job of this shape, or None.

        A shape that failed is not tried again, as the view only shrinks; one that was placed keeps its answer
        until something is taken. So a long queue costs a placement per distinct shape and start.
        """
        if shape in self._failed:
            return None
        found = self._chosen.get(shape) or _choose(self, shape)
        if found is None:
            self._failed.add(shape)
        else:
            self._chosen[shape] = found
        return found


def _choose(view: FreeView, shape: Shape) -> Choice | None:
    """The placement rules, first that applies."""
    if view.free(shape.flavor) < shape.gpus:
        return None
    if shape.nodes is not None:
        return _exactly(view, shape, shape.nodes)
    if shape.gpus > view.biggest(shape.flavor):
        return _whole_nodes(view, shape)
    return _exactly(view, shape, 1) or _fewest(view, shape)


def _exactly(view: FreeView, shape: Shape, nodes: int) -> Choice | None:
    """The same number of GPUs on exactly `nodes` nodes, the fullest that hold it."""
    each = shape.gpus // nodes
    found: list[tuple[str, int]] = []
    for name, _ in view.fullest(shape.flavor, each):
        found.append((name, each))
        if len(found) == nodes:
            return tuple(found)
    return None


def _whole_nodes(view: FreeView, shape: Shape) -> Choice | None:
    """Entirely free nodes, the largest first, and the remainder on one more: the fullest that holds it."""
    found: list[tuple[str, int]] = []
    left = shape.gpus
    for name, room in view.emptiest(shape.flavor):
        if left == 0:
            break
        if room <= left and view.is_whole(name):
            found.append((name, room))
            left -= room
    return _with_remainder(view, shape.flavor, found, left)


def _fewest(view: FreeView, shape: Shape) -> Choice | None:
    """As few nodes as can be: the emptiest whole, and the remainder on the fullest that holds it."""
    found: list[tuple[str, int]] = []
    left = shape.gpus
    by_room = view.emptiest(shape.flavor)
    name, room = next(by_room)
    while room < left:  # ends before the nodes do: enough is free on all of them together
        found.append((name, room))
        left -= room
        name, room = next(by_room)
    return _with_remainder(view, shape.flavor, found, left)


def _with_remainder(view: FreeView, flavor: str, found: list[tuple[str, int]], left: int) -> Choice | None:
    """The nodes found, and `left` GPUs on the fullest other node that holds them."""
    if left == 0:
        return tuple(found)
    taken = {name for name, _ in found}
    for name, _ in view.fullest(flavor, left):
        if name not in taken:
            return (*found, (name, left))
    return None
