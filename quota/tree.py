"""The quota tree with its limits in GPUs: who is entitled, who borrows, and what may still be borrowed.

One `Tree` per pool. A pool is what is counted together: all flavors of whole GPUs, or one flavor of slices.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Final

from quota.cohort import ancestors, nominals
from quota.model import ROOT, Amount, Policy, QuotaNode, Share

WHOLE: Final = "gpu"
"""Name of the pool of all whole GPUs."""
SLICE_MARK: Final = "-mig-"
"""In the name of a flavor: its unit is a slice of a GPU, which is counted by itself."""


def pool_of(flavor: str) -> str:
    """The pool that a flavor is counted in."""
    return flavor if SLICE_MARK in flavor else WHOLE


def slices_of(policy: Policy) -> frozenset[str]:
    """Flavors of slices for which some node of the tree states something of its own."""
    return frozenset(flavor for node in policy.tree for flavor, _ in node.slices)


def in_pool(policy: Policy, pool: str) -> Policy:
    """The policy as it reads for a pool: what nodes state for it in place of what they state for whole GPUs."""
    if pool not in slices_of(policy):
        return policy
    return replace(policy, tree=tuple(_in_pool(node, pool) for node in policy.tree))


def _in_pool(node: QuotaNode, pool: str) -> QuotaNode:
    own = dict(node.slices).get(pool)
    if own is None:
        return node
    return replace(
        node,
        nominal=node.nominal if own.nominal is None else own.nominal,
        borrowing_limit=node.borrowing_limit if own.borrowing_limit is None else own.borrowing_limit,
        lending_limit=node.lending_limit if own.lending_limit is None else own.lending_limit,
        weight=node.weight if own.weight is None else own.weight,
    )


@dataclass(frozen=True, slots=True)
class QuotaRefusal:
    """The first node, from the queue upwards, at which a job would exceed a limit. All in GPUs.

    Args:
        node: path of the node; the queue itself when its own borrowing limit is met.
        nominal_gpus: the node's nominal.
        used_gpus: what counts there now: what is held below it, and what its children keep for themselves.
        room_gpus: what the queue may still take, 0 or more.
    """

    node: str
    nominal_gpus: int
    used_gpus: int
    room_gpus: int


@dataclass(frozen=True, slots=True)
class Tree:
    """The limits of every node in whole GPUs, for one pool of so many GPUs in service.

    Args:
        nominal: of every node, ROOT included (the capacity).
        ceiling: nominal and the borrowing limit, of nodes that have one.
        kept: what a node does not lend; nodes that lend all of it are absent.
        weight: for fair share: the weight stated, else the nominal, else 1.
        below: children of every inner node, sorted by path.
        upwards: every node, behind all that are below it; made of the others.
    """

    nominal: Mapping[str, int]
    ceiling: Mapping[str, int]
    kept: Mapping[str, int]
    weight: Mapping[str, int]
    below: Mapping[str, tuple[str, ...]]
    upwards: tuple[str, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        upwards = sorted(self.nominal, key=lambda path: -len(ancestors(path)))
        object.__setattr__(self, "upwards", tuple(upwards))

    @property
    def is_limited(self) -> bool:
        """Whether any node limits what is borrowed or lent."""
        return bool(self.ceiling or self.kept)


def tree_of(policy: Policy, capacity: int, pool: str = WHOLE) -> Tree:
    """The tree of a policy on the `capacity` GPUs (or slices) of a pool.

    Percentages of borrowing and lending limits are of the parent's nominal, rounded down; a node lends at most
    its nominal. Source: Kueue's nominalQuota, borrowingLimit, lendingLimit (ClusterQueue API v1beta2), with
    nominals of children inside their parent's instead of added to it.
    """
    policy = in_pool(policy, pool)
    given = nominals(policy, capacity)
    ceiling: dict[str, int] = {}
    kept: dict[str, int] = {}
    weight: dict[str, int] = {ROOT: 1}
    below: dict[str, list[str]] = {}
    for node in sorted(policy.tree, key=lambda node: node.path):
        below.setdefault(node.parent, []).append(node.path)
        weight[node.path] = node.weight or given[node.path] or 1
        if node.borrowing_limit is not None:
            ceiling[node.path] = given[node.path] + _gpus(node.borrowing_limit, given[node.parent])
        if node.lending_limit is not None:
            lent = min(_gpus(node.lending_limit, given[node.parent]), given[node.path])
            if lent < given[node.path]:
                kept[node.path] = given[node.path] - lent
    return Tree(given, ceiling, kept, weight, {path: tuple(paths) for path, paths in below.items()})


def _gpus(amount: Amount, parent_gpus: int) -> int:
    """Whole GPUs of an amount; a share is of the parent's nominal, rounded down."""
    return int(Fraction(parent_gpus) * amount.ratio) if isinstance(amount, Share) else amount


def entitled_of(held: Iterable[int], nominal: int) -> list[bool]:
    """Charge GPUs held, in order of admission, against the nominal; which of them fit.

    What does not fit is passed over and is borrowed; charging goes on behind it. Siblings' nominals never
    exceed their parent's, so what fits the queue fits every node above it.
    """
    left = nominal
    found: list[bool] = []
    for gpus in held:
        found.append(gpus <= left)
        if found[-1]:
            left -= gpus
    return found


class Use:
    """What counts at every node of a tree: what is held below it and what its children keep for themselves.

    Working state of one cycle.

    Args:
        tree: the limits.
        held: GPUs held by each queue; queues that the tree does not have count at ROOT alone.
        counted: what counts at each node, where that is known: `held` is not looked at then.
    """

    def __init__(self, tree: Tree, held: Mapping[str, int], counted: Mapping[str, int] | None = None) -> None:
        self.tree: Final = tree
        self._counted: Final = {} if counted is None else dict(counted)
        if counted is None:
            self._count(held)

    def _count(self, held: Mapping[str, int]) -> None:
        """From the queues upwards; what a queue that the tree does not have holds is added."""
        tree = self.tree
        for path in tree.upwards:
            counted = held.get(path, 0)
            for child in tree.below.get(path, ()):
                counted += max(self._counted[child], tree.kept.get(child, 0))
            self._counted[path] = counted
        for queue in sorted(held.keys() - tree.nominal.keys()):
            self.add(queue, held[queue])

    def copy(self) -> Use:
        """The same, to be changed apart."""
        return Use(self.tree, {}, self._counted)

    def add(self, queue: str, gpus: int) -> None:
        """`queue` holds `gpus` more (or fewer). O(depth)."""
        for node, counted in self._after(queue, gpus):
            self._counted[node] = counted

    def at(self, node: str) -> int:
        """What counts at a node."""
        return self._counted.get(node, 0)

    def refusal(self, queue: str, gpus: int, *, is_entitled: bool) -> QuotaRefusal | None:
        """The node at which `gpus` more in `queue` would exceed a limit; None when none would.

        Entitled work is bound by borrowing limits only: what others keep for themselves is not in its way.
        """
        for node, counted in self._after(queue, gpus):
            limit = self._limit(node, is_entitled=is_entitled)
            if limit is not None and counted > limit:
                nominal = self.tree.nominal.get(node, 0)
                return QuotaRefusal(node, nominal, self.at(node), self.room(queue, is_entitled=is_entitled))
        return None

    def room(self, queue: str, *, is_entitled: bool) -> int:
        """The most GPUs that no limit refuses to `queue`; 0 or more. O(depth x log capacity)."""
        low, high = 0, self.tree.nominal[ROOT]
        while low < high:
            middle = (low + high + 1) // 2
            is_over = any(
                (limit := self._limit(node, is_entitled=is_entitled)) is not None and counted > limit
                for node, counted in self._after(queue, middle)
            )
            low, high = (low, middle - 1) if is_over else (middle, high)
        return low

    def _limit(self, node: str, *, is_entitled: bool) -> int | None:
        """What may count at a node at most; at ROOT it is what nobody keeps for himself."""
        if node != ROOT:
            return self.tree.ceiling.get(node)
        # Where nobody keeps anything, room itself is the limit: nodes are not counted twice.
        return self.tree.nominal[ROOT] if self.tree.kept and not is_entitled else None

    def _after(self, queue: str, gpus: int) -> Sequence[tuple[str, int]]:
        """What would count at every node from the queue to ROOT with `gpus` more."""
        found: list[tuple[str, int]] = []
        more = gpus
        for node in ancestors(queue):
            before = self.at(node)
            found.append((node, before + more))
            kept = self.tree.kept.get(node, 0)
            more = max(before + more, kept) - max(before, kept)
        return found
