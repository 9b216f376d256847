"""Where a job runs: nodes out of what is free, then exact GPU UUIDs.

Small jobs go to the fullest node that holds them, so that whole nodes stay whole for large ones, unless they ask
to be spread. Source: best fit of bin packing; Slurm's CR_LLN, least loaded node, is its opposite and fragments.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Final, NamedTuple

import numpy as np

from scheduler.model import LiveAttempt, Node, NodeState, Place, Slot
from scheduler.topology import Counts, Labels, Site, Sizes, Terms

__all__ = [
    "NO_ROOMS",
    "Choice",
    "Counts",
    "FreeView",
    "GpusTakenError",
    "Picks",
    "Rooms",
    "Shape",
    "Sizes",
    "pick",
]

Choice = Place
"""Node names and how many GPUs of each, in rank order."""

Picks = tuple[tuple[int, int], ...]
"""The same with the nodes' positions instead of their names."""


class Shape(NamedTuple):
    """What placement looks at; a tuple, as it is looked up by many times in a cycle.

    Args:
        gpus: of one flavor.
        nodes: over how many nodes; None = may span the fewest.
        terms: what else is asked of the nodes; None = nothing.
    """

    flavor: str
    gpus: int
    nodes: int | None
    terms: Terms | None = None


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


def pick(
    free: Counts, sizes: Sizes, gpus: int, nodes: int | None, *, is_spread: bool = False
) -> Picks | None:
    """Nodes for a job: the rules of placement, first that applies. O(nodes).

    Exactly `nodes` nodes, the fullest that hold it; else one node, the fullest that holds it; else as few as
    can be, emptiest first; a job larger than any node takes entirely free nodes, largest first. A remainder
    goes to the fullest other node that holds it. Ties by name. Spread, a job that fits one node and one that
    names its number of nodes get the emptiest instead of the fullest.

    Args:
        free: what may be taken of each node; below 0 counts as 0.
        sizes: GPUs of each node, free or not.
        gpus: how many, 1 or more.
        nodes: None = may span the fewest.
        is_spread: the emptiest nodes that hold it instead of the fullest.

    Returns:
        Positions of nodes and GPUs of each, or None when there is no such set.
    """
    if nodes is not None:
        return _exactly(free, gpus // nodes, nodes, is_spread=is_spread)
    if gpus > sizes.biggest:
        return _whole_nodes(free, sizes, gpus)
    return _exactly(free, gpus, 1, is_spread=is_spread) or _fewest(free, gpus)


def _exactly(free: Counts, each: int, nodes: int, *, is_spread: bool = False) -> Picks | None:
    """The same number of GPUs on exactly `nodes` nodes, the fullest (or emptiest) that hold it."""
    holds = (free >= each).nonzero()[0]
    if len(holds) < nodes:
        return None
    room = -free[holds] if is_spread else free[holds]
    if nodes == 1:
        return ((int(holds[room.argmin()]), each),)
    first = holds[np.argsort(room, kind="stable")[:nodes]]
    return tuple((int(node), each) for node in first)


def _whole_nodes(free: Counts, sizes: Sizes, gpus: int) -> Picks | None:
    """Entirely free nodes, the largest first, and the remainder on one more: the fullest that holds it."""
    if sizes.is_uniform:
        largest = (free == sizes.counts).nonzero()[0]
        if len(largest) < gpus // sizes.biggest:
            return None  # what is left is more than any other node has
    elif int(np.maximum(free, 0).sum()) < gpus:
        return None
    else:
        whole = ((free == sizes.counts) & (sizes.counts > 0)).nonzero()[0]
        largest = whole[np.argsort(-sizes.counts[whole], kind="stable")]
    found: list[tuple[int, int]] = []
    left = gpus
    for node, size in zip(largest.tolist(), sizes.counts[largest].tolist(), strict=True):
        if left == 0:
            break
        if size <= left:
            found.append((node, size))
            left -= size
    return _with_remainder(free, found, left)


def _fewest(free: Counts, gpus: int) -> Picks | None:
    """As few nodes as can be: the emptiest whole, and the remainder on the fullest that holds it."""
    found: list[tuple[int, int]] = []
    left = gpus
    for node in np.argsort(-free, kind="stable").tolist():
        room = int(free[node])
        if room >= left:
            return _with_remainder(free, found, left)
        if room <= 0:
            break
        found.append((node, room))
        left -= room
    return None


def _with_remainder(free: Counts, found: list[tuple[int, int]], left: int) -> Picks | None:
    """The nodes found, and `left` GPUs on the fullest other node that holds them."""
    if left == 0:
        return tuple(found)
    if left > int(free.max(initial=0)):
        return None
    others = free.copy()
    others[[node for node, _ in found]] = 0
    last = _exactly(others, left, 1)
    return None if last is None else (*found, *last)


class Rooms:
    """The nodes of one flavor, by name: what they are, and what is free of each.

    Args:
        nodes: name, GPUs and free GPUs of each.
        labels: of each node; left out where none has any.
        amounts: CPUs and bytes of memory of each node; left out where nobody asks for any.
    """

    __slots__ = ("free", "index", "names", "site", "sizes", "total")

    def __init__(
        self,
        nodes: Sequence[tuple[str, int, int]],
        labels: Sequence[Labels] = (),
        amounts: Sequence[tuple[int, int]] = (),
    ) -> None:
        site = Site([name for name, _, _ in nodes], [size for _, size, _ in nodes], labels, amounts)
        self.site: Final = site
        self.names, self.index, self.sizes = site.names, site.index, site.sizes
        self.free: Final[Counts] = np.array([free for _, _, free in nodes], dtype=np.int64)
        self.total = int(self.free.sum())

    def copy(self) -> Rooms:
        """The same, to take from."""
        other = Rooms.__new__(Rooms)
        other.site, other.free = self.site, self.free.copy()  # type: ignore[misc]
        other.names, other.index, other.sizes = self.names, self.index, self.sizes
        other.total = self.total
        return other

    def take(self, node: str, gpus: int) -> None:
        """So many GPUs of a node are free no more."""
        self.free[self.index[node]] -= gpus
        self.total -= gpus

    def named(self, picks: Picks) -> Place:
        """Picks with the names of the nodes."""
        return tuple((self.names[node], gpus) for node, gpus in picks)

    def pick(self, free: Counts, shape: Shape) -> Picks | None:
        """Nodes for a job: `pick` among those with its labels, in one domain of the first level that holds it.

        Of several such domains the fullest, ties by name. O(nodes), and a `pick` for each domain that has the
        GPUs and no shape of them that would do.

        Args:
            free: what may be taken of each node.
            shape: what is asked for.
        """
        terms = shape.terms
        if terms is None:
            return pick(free, self.sizes, shape.gpus, shape.nodes)
        for level in terms.levels:
            for part in self.site.parts(terms.labels, level).holding(free, shape.gpus):
                found = pick(
                    free[part.positions], part.sizes, shape.gpus, shape.nodes, is_spread=terms.is_spread
                )
                if found is not None:
                    return tuple((int(part.positions[node]), gpus) for node, gpus in found)
        return None

    def allows(self, positions: Sequence[int], shape: Shape) -> bool:
        """Whether these nodes have the labels asked for and lie in one domain of the level that is required."""
        terms = shape.terms
        if terms is None:
            return True
        return bool(terms.levels) and self.site.is_one_domain(positions, terms.labels, terms.levels[-1])

    def free_of(self, labels: Labels) -> int:
        """GPUs that are free on nodes with these labels."""
        return self.total if not labels else sum(self.site.parts(labels, None).totals(self.free).tolist())

    def most(self, labels: Labels, level: str | None, nodes: int | None, *, is_whole: bool = False) -> int:
        """The most GPUs that one job could get now in one domain of a level.

        Args:
            labels: that its nodes have.
            level: None = on any nodes.
            nodes: exactly so many, with as many GPUs of each; None = may span the fewest.
            is_whole: it is larger than a node, and takes entirely free ones and a remainder.
        """
        found = 0
        for part in self.site.parts(labels, level).all:
            here = np.sort(self.free[part.positions])[::-1]
            if nodes is not None:
                found = max(found, int(here[nodes - 1]) * nodes if len(here) >= nodes else 0)
            elif is_whole:
                left = self.free[part.positions]
                is_free = left == part.sizes.counts
                found = max(found, int(left[is_free].sum() + left[~is_free].max(initial=0)))
            else:
                found = max(found, int(here.sum()))
        return found


NO_ROOMS: Final = Rooms(())
"""The rooms of a flavor that no node has."""


class FreeView:
    """Free GPUs per node; working state of one cycle, and it only shrinks.

    Args:
        nodes: the nodes that count; GPUs in index order.
        held: UUIDs of GPUs that are not free.
    """

    def __init__(self, nodes: Iterable[Node], held: Collection[str] = frozenset()) -> None:
        self._nodes: dict[str, Node] = {node.name: node for node in nodes}
        self._free: dict[str, tuple[str, ...]] = {}
        by_flavor: dict[str, list[Node]] = {}
        for name, node in sorted(self._nodes.items()):
            free = tuple(uuid for uuid in node.gpu_uuids if uuid not in held) if held else node.gpu_uuids
            self._free[name] = free
            by_flavor.setdefault(node.flavor, []).append(node)
        self.rooms: Final = {flavor: self._rooms(found) for flavor, found in sorted(by_flavor.items())}
        self._failed: set[Shape] = set()
        self._chosen: dict[Shape, Choice] = {}

    def _rooms(self, nodes: Sequence[Node]) -> Rooms:
        """What is free of these nodes, which are sorted by name."""
        return Rooms(
            [(node.name, len(node.gpu_uuids), len(self._free[node.name])) for node in nodes],
            [node.labels for node in nodes],
            [(node.cpus or 0, node.memory_bytes or 0) for node in nodes],
        )

    @classmethod
    def of(cls, nodes: Iterable[Node], live: Iterable[LiveAttempt]) -> FreeView:
        """What is free now: nodes that are UP without the GPUs of live attempts. O(GPUs)."""
        held = frozenset(uuid for attempt in live for slot in attempt.slots for uuid in slot.gpu_uuids)
        return cls((node for node in nodes if node.state is NodeState.UP), held)

    @classmethod
    def in_service(cls, nodes: Iterable[Node]) -> FreeView:
        """What would be free were nothing running: every node but drained ones. O(GPUs)."""
        return cls(node for node in nodes if node.is_in_service)

    def copy(self) -> FreeView:
        """An independent view of the same; what is taken there stays free here."""
        other = FreeView(())
        other._nodes = self._nodes
        other._free = self._free.copy()
        other.rooms.update({flavor: rooms.copy() for flavor, rooms in self.rooms.items()})
        return other

    def occupy(self, slots: Iterable[Slot]) -> None:
        """The slots' GPUs are free no more, as far as they were; nodes that are not here have none."""
        for slot in slots:
            before = self._free.get(slot.node)
            if before is not None:
                left = self._free[slot.node] = _without(before, slot.gpu_uuids)
                self.rooms[self._nodes[slot.node].flavor].take(slot.node, len(before) - len(left))

    def give_back(self, slots: Iterable[Slot]) -> None:
        """The slots' GPUs are free again; a placement must not have been asked for before."""
        for slot in slots:
            self._set(slot.node, set(self._free.get(slot.node, ())).union(slot.gpu_uuids))

    def _set(self, name: str, free: Collection[str]) -> None:
        node = self._nodes.get(name)
        if node is not None:
            left = tuple(uuid for uuid in node.gpu_uuids if uuid in free)
            self.rooms[node.flavor].take(name, len(self._free[name]) - len(left))
            self._free[name] = left

    @property
    def flavors(self) -> tuple[str, ...]:
        """Flavors of the nodes, sorted."""
        return tuple(self.rooms)

    def of_flavor(self, flavor: str) -> Rooms:
        """The nodes of a flavor; none where no node has it."""
        return self.rooms.get(flavor, NO_ROOMS)

    def free(self, flavor: str) -> int:
        """Free GPUs of a flavor on all nodes."""
        return self.of_flavor(flavor).total

    def biggest(self, flavor: str) -> int:
        """GPUs of the largest node of a flavor, free or not; 0 where there is none."""
        return self.of_flavor(flavor).sizes.biggest

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
            self._free[slot.node] = _without(before, slot.gpu_uuids)
            self.rooms[self._nodes[slot.node].flavor].take(slot.node, len(taken))
        self._chosen.clear()

    def choose(self, shape: Shape) -> Choice | None:
        """Nodes for a job of this shape, or None.

        A shape that failed is not tried again, as the view only shrinks; one that was placed keeps its answer
        until something is taken. So a long queue costs a placement per distinct shape and start.
        """
        if shape in self._failed:
            return None
        found = self._chosen.get(shape) or self._choose(shape)
        if found is None:
            self._failed.add(shape)
        else:
            self._chosen[shape] = found
        return found

    def _choose(self, shape: Shape) -> Choice | None:
        """The placement of a shape that is not remembered."""
        rooms = self.of_flavor(shape.flavor)
        if rooms.total < shape.gpus:
            return None
        picks = rooms.pick(rooms.free, shape)
        return None if picks is None else rooms.named(picks)


def _without(free: tuple[str, ...], taken: tuple[str, ...]) -> tuple[str, ...]:
    """Free GPUs without those that are taken, mostly the first of them."""
    if free[: len(taken)] == taken:
        return free[len(taken) :]
    gone = set(taken)
    return tuple(uuid for uuid in free if uuid not in gone)
