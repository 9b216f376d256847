"""The quota tree in numbers: nominal quota of every node, use of every node.

The tree's root is the capacity in service; a node's nominal counts whole GPUs of every flavor alike.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from functools import lru_cache
from typing import Final

from quota.model import ROOT, Policy, QuotaNode, Share

DEFAULT_WEIGHT = 1
"""Weight, without unit, of a node that states none when its parent's nominal is divided."""
MAX_PATHS: Final = 65_536
"""Paths whose ancestors are remembered: more than the nodes of any policy."""


@lru_cache(maxsize=MAX_PATHS)
def ancestors(path: str) -> tuple[str, ...]:
    """The node and every node above it, from the node to the root, both included."""
    found = [path]
    while path != ROOT:
        path = path.rpartition("/")[0]
        found.append(path)
    return tuple(found)


def children(policy: Policy) -> dict[str, list[QuotaNode]]:
    """Children of every inner node, ROOT included, sorted by path."""
    found: dict[str, list[QuotaNode]] = {ROOT: []}
    for node in sorted(policy.tree, key=lambda node: node.path):
        found.setdefault(node.parent, []).append(node)
    return found


def round_together(total: int, quotas: Mapping[str, Fraction]) -> dict[str, int]:
    """Round exact quotas to whole GPUs that add up to `total`, the sum of the quotas rounded down.

    Each gets its quota rounded down; what is left goes one by one to the largest remainders, ties by name.
    Source: Hamilton's method of apportionment (largest remainder). O(n log n).
    """
    given = {name: int(quota) for name, quota in quotas.items()}
    by_remainder = sorted(quotas, key=lambda name: (given[name] - quotas[name], name))
    for name in by_remainder[: total - sum(given.values())]:
        given[name] += 1
    return given


def in_proportion(total: int, weights: Mapping[str, Fraction]) -> dict[str, int]:
    """Divide all of `total` GPUs in proportion to weights, not all of them 0; see `round_together`."""
    whole = sum(weights.values(), Fraction(0))
    return round_together(total, {name: total * weight / whole for name, weight in weights.items()})


@dataclass(frozen=True, slots=True)
class Shrunk:
    """Alert `nominal_exceeds_capacity`: the children of `parent` ask for more than it has, and all got less.

    Args:
        parent: path of the parent, ROOT for the first level.
        asked_gpus: what its children's nominals come to, rounded up.
        given_gpus: the parent's nominal, which was divided in proportion.
    """

    parent: str
    asked_gpus: int
    given_gpus: int
    code: str = "nominal_exceeds_capacity"


@dataclass(frozen=True, slots=True)
class Division:
    """The capacity divided: nominal GPUs of every node (ROOT included), and where it was too small."""

    nominals: Mapping[str, int]
    alerts: tuple[Shrunk, ...]


def divide(policy: Policy, capacity: int) -> Division:
    """Divide the capacity over the tree, top-down, level by level.

    Shares of siblings are rounded together by largest remainder; children without a nominal divide by weight
    what their siblings leave; children that ask for more than the parent has shrink in proportion, and those
    without a nominal get nothing. What no child gets stays the parent's. Never depends on the order in which
    the policy lists its nodes. O(n log n) for n nodes.

    Args:
        policy: the policy in force.
        capacity: GPUs in service, 0 or more.
    """
    by_parent = children(policy)
    nominals = {ROOT: capacity}
    alerts: list[Shrunk] = []
    todo = [ROOT]
    while todo:
        parent = todo.pop()
        below = by_parent.get(parent, [])
        nominals |= _divide_among(nominals[parent], below)
        asked = asked_gpus(nominals[parent], below)
        if asked > nominals[parent]:
            alerts.append(Shrunk(parent, -int(-asked // 1), nominals[parent]))
        todo.extend(node.path for node in below)
    return Division(nominals, tuple(sorted(alerts, key=lambda alert: alert.parent)))


def nominals(policy: Policy, capacity: int) -> Mapping[str, int]:
    """Nominal GPUs of every node of the tree, ROOT (the capacity) included; see `divide`."""
    return divide(policy, capacity).nominals


def asked_gpus(parent_gpus: int, siblings: Iterable[QuotaNode]) -> Fraction:
    """What the siblings' stated nominals come to, exactly, if their parent has `parent_gpus`."""
    return sum(_wishes(parent_gpus, siblings).values(), Fraction(0))


def _wishes(parent_gpus: int, siblings: Iterable[QuotaNode]) -> dict[str, Fraction]:
    """The stated nominals as exact GPUs, before rounding; children without one are not listed."""
    return {
        node.path: parent_gpus * node.nominal.ratio
        if isinstance(node.nominal, Share)
        else Fraction(node.nominal)
        for node in siblings
        if node.nominal is not None
    }


def _divide_among(parent_gpus: int, siblings: list[QuotaNode]) -> dict[str, int]:
    """One level of `divide`: whole GPUs of each sibling."""
    wishes = _wishes(parent_gpus, siblings)
    if sum(wishes.values()) > parent_gpus:
        shrunk = in_proportion(parent_gpus, wishes)
        return {node.path: shrunk.get(node.path, 0) for node in siblings}
    given = {node.path: node.nominal for node in siblings if isinstance(node.nominal, int)}
    shares = {node.path: wishes[node.path] for node in siblings if isinstance(node.nominal, Share)}
    given |= round_together(int(sum(shares.values(), Fraction(0))), shares)
    weights = {
        node.path: Fraction(DEFAULT_WEIGHT if node.weight is None else node.weight)
        for node in siblings
        if node.nominal is None
    }
    if weights:
        given |= in_proportion(parent_gpus - sum(given.values()), weights)
    return given


@dataclass(frozen=True, slots=True)
class QuotaUse:
    """GPUs held below every node of the tree, the node itself and ROOT included."""

    used: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, held: Iterable[tuple[str, int]]) -> QuotaUse:
        """Add up (queue, GPUs) of everything that runs. O(n x depth)."""
        used: dict[str, int] = {}
        for queue, gpus in held:
            for node in ancestors(queue):
                used[node] = used.get(node, 0) + gpus
        return cls(used)

    def at(self, node: str) -> int:
        """GPUs held in the subtree of `node`."""
        return self.used.get(node, 0)
