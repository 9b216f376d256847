"""What does not change from cycle to cycle under one policy: what could ever fit, limits, nominals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from quota.fairshare import fair_tree
from quota.model import Policy, QuotaNode
from quota.tree import Tree, Use, pool_of, tree_of
from scheduler.model import Numbers, Request, Snapshot
from scheduler.order import times_of
from scheduler.place import FreeView, Shape
from scheduler.running import LEAST_GRACE_MS, MS
from scheduler.topology import terms_of

NO_LIMITS: Final = Tree({"": 0}, {}, {}, {}, {})
"""The tree of a pool that has no GPUs in service."""


class Limit(StrEnum):
    """What makes a job impossible, whoever else runs."""

    QUEUE = "queue"
    """The policy has no such queue."""
    REQUEST = "request"
    """GPUs, nodes or walltime below 1, or GPUs that do not divide by the nodes."""
    FLAVOR = "flavor"
    """No node in service has a flavor of the list."""
    WALLTIME = "walltime"
    """Longer than the queue's longest walltime."""
    MAX_GPUS_PER_JOB = "max_gpus_per_job"
    """Larger than the queue's largest job."""
    NOMINAL = "nominal"
    """Larger than the nominal quota and all that may be borrowed, at a node on the queue's path."""
    SHAPE = "shape"
    """No such set of nodes in service, were they all free."""
    LABELS = "labels"
    """No node in service of these flavors has the labels."""
    TOPOLOGY = "topology"
    """The policy names no such level, or in this order; or no domain of the level in service is large enough."""
    CPUS = "cpus"
    """No such set of nodes in service with so many CPUs for each GPU."""
    MEMORY = "memory"
    """No such set of nodes in service with so much memory for each GPU."""


@dataclass(frozen=True, slots=True)
class NeverFits:
    """The job can never start as asked.

    `numbers`: `limit`, what was asked (`queue`, `gpus`, `walltime_s`) and what would fit: `max_gpus` (0 = the
    queue takes none), `flavors` in service (joined by ","), and `max_walltime_s` where the queue has one; the
    `labels` asked for (key=value, joined by ","); the `level` that refuses, with the `levels` of the policy.
    """

    limit: Limit
    numbers: Numbers


class Bounds:
    """What could ever fit: the policy on the inventory in service, were nothing running.

    Args:
        snapshot: its nodes (without drained ones) and capacity count, nothing else.
        policy: the policy in force.
    """

    def __init__(self, snapshot: Snapshot, policy: Policy) -> None:
        parents = {node.parent for node in policy.tree}
        capacity: dict[str, int] = {}
        for flavor, gpus in snapshot.capacity.items():
            capacity[pool_of(flavor)] = capacity.get(pool_of(flavor), 0) + gpus
        self.policy: Final = policy
        self.trees: Final = {pool: tree_of(policy, gpus, pool) for pool, gpus in capacity.items()}
        self.nominals: Final = {pool: tree.nominal for pool, tree in self.trees.items()}
        self.fair_tree: Final = fair_tree(policy, self.trees) or NO_LIMITS
        self.queues: Final[Mapping[str, QuotaNode]] = {
            node.path: node for node in policy.tree if node.path not in parents
        }
        self.inventory: Final = FreeView.in_service(snapshot.nodes)
        self.priorities: Final = {node.path: node.priority for node in policy.tree}
        self.times: Final = times_of(self.fair_tree)
        self._shapes: Final[dict[tuple[Request, str], Shape]] = {}
        self.answers: Final[dict[tuple[str, Request], NeverFits | None]] = {}
        self._largest: Final[dict[tuple[str, str], int]] = {}

    def tree(self, flavor: str) -> Tree:
        """The tree of the flavor's pool."""
        return self.trees.get(pool_of(flavor), NO_LIMITS)

    def nominal(self, queue: str, flavor: str) -> int:
        """Nominal GPUs of a queue in the flavor's pool."""
        return self.tree(flavor).nominal.get(queue, 0)

    def largest(self, queue: str, flavor: str) -> int:
        """The largest job that the limits of the queue's path allow in an idle cluster."""
        key = (queue, pool_of(flavor))
        if key not in self._largest:
            room = Use(self.tree(flavor), {}).room(queue, is_entitled=False)
            self._largest[key] = max(room, self.nominal(queue, flavor))
        return self._largest[key]

    def shape(self, request: Request, flavor: str) -> Shape:
        """What placement needs to know of a request."""
        key = (request, flavor)
        known = self._shapes.get(key)
        if known is None:
            terms = terms_of(request, self.policy.topology)
            known = self._shapes[key] = Shape(flavor, request.gpus, request.nodes, terms)
        return known

    def grace_ms(self, queue: str) -> int:
        """Notice that a borrower of the queue gets, in milliseconds."""
        node = self.queues.get(queue)
        return max(LEAST_GRACE_MS, 0 if node is None else node.grace_s * MS)
