"""In which order jobs get their turn: a total order, written rule by rule.

Inside a queue RULES decide. Across queues entitled work goes first; among equals the tree is walked from its
root, and at each level the child with the least decayed use per weight goes first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from math import lcm
from typing import Final

from quota.cohort import ancestors
from quota.model import ROOT
from quota.tree import Tree, pool_of
from scheduler.model import PendingJob

ENTITLED_FIRST: Final = "entitled_first"
"""Rule across queues: what a queue is entitled to goes before what is borrowed."""
FAIR_SHARE: Final = "fair_share"
"""Rule across queues: the side of the tree that used less of its share goes first."""
PRIORITY_CLASS: Final = "priority_class"
"""Rule across queues of equal use: the queue of higher priority goes first, then the smaller name."""
RESERVED: Final = "reserved"
"""Rule across queues: a start that was planned before goes before work that is not entitled now."""
AGED: Final = "aged"
"""Rule of a queue: a job that waited for `aging.full_after` is overtaken by no later one."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One criterion of the order inside a queue. `key` of (job, whether it is aged): the smaller goes first."""

    name: str
    key: Callable[[PendingJob, bool], int]


RULES: tuple[Rule, ...] = (
    Rule("expedited", lambda job, _: -job.is_expedited),
    Rule(AGED, lambda _, is_aged: -is_aged),
    Rule("submitted", lambda job, is_aged: job.submitted_ms if is_aged else 0),
    Rule("job_priority", lambda job, _: -job.priority),
    Rule("submitted", lambda job, _: job.submitted_ms),
    Rule("id", lambda job, _: job.id),
)
"""Order of a queue: expedited by an operator; aged, by submission; higher priority; earlier; smaller id.

Source: the multifactor order of Slurm's priority plugin with each factor strict instead of weighted, so that
one criterion, and not a sum of them, can be named as the reason.
"""


_NOTHING: Final[Mapping[str, int]] = {}

Key = tuple[int, ...]
"""A job's place in its queue: one number per rule of RULES, the smaller first."""


class Aging:
    """Which jobs are aged: overtaken no more. Surplus queues and gangs beyond nominal have no such bound.

    Args:
        at_ms: now.
        full_after_s: seconds after which a job is aged.
        nominals: of each pool that is in service, those of each queue.
    """

    def __init__(self, at_ms: int, full_after_s: int, nominals: Mapping[str, Mapping[str, int]]) -> None:
        self.by_ms: Final = at_ms - full_after_s * 1_000
        self.nominals: Final = nominals

    def is_aged(self, job: PendingJob, queue: str) -> bool:
        """Whether the job is aged, `queue` being where it counts."""
        return job.submitted_ms <= self.by_ms and self.can_age(job, queue)

    def can_age(self, job: PendingJob, queue: str) -> bool:
        """Whether the job becomes aged one day: it is within its queue's nominal on a flavor that it takes."""
        gpus = job.request.gpus
        pools = (self.nominals.get(pool_of(flavor), _NOTHING) for flavor in job.request.flavors)
        return any(gpus <= pool.get(queue, 0) for pool in pools)


def in_order(pending: Iterable[PendingJob], aging: Aging, queue: str) -> list[PendingJob]:
    """The jobs of a queue in the order of RULES; ids are unique, so there are no ties. O(n log n)."""
    return sorted(pending, key=lambda job: key_of(job, is_aged=aging.is_aged(job, queue)))


def deciding_rule(ahead: PendingJob, behind: PendingJob, aging: Aging, queue: str) -> str:
    """Name of the first rule on which two different jobs of one queue differ."""
    first = key_of(ahead, is_aged=aging.is_aged(ahead, queue))
    second = key_of(behind, is_aged=aging.is_aged(behind, queue))
    pairs = zip(RULES, first, second, strict=True)
    return next(rule.name for rule, mine, other in pairs if mine != other)


def key_of(job: PendingJob, *, is_aged: bool) -> Key:
    """The job's place: one number per rule."""
    return tuple(rule.key(job, is_aged) for rule in RULES)


def times_of(tree: Tree) -> dict[str, int]:
    """How often the use of each node counts, so that it compares with its siblings' as use per weight would."""
    times: dict[str, int] = {}
    for children in tree.below.values():
        whole = lcm(*(tree.weight[child] for child in children))
        times.update({child: whole // tree.weight[child] for child in children})
    return times


class FairShare:
    """Decayed use per weight at every node of the tree; working state of one cycle.

    Source: Slurm's Fair Tree (fair_tree.html), each level on its own, on a Kueue cohort tree.

    Args:
        tree: weights and children.
        usage: GPU-milliseconds of each queue, decayed.
        priorities: of nodes, for children of equal use.
        times: as `times_of` says for the tree.
    """

    def __init__(
        self,
        tree: Tree,
        usage: Mapping[str, int],
        priorities: Mapping[str, int],
        times: Mapping[str, int],
    ) -> None:
        self._below: Final = tree.below
        self._priorities: Final = priorities
        self._usage: Final = dict(usage)
        self._known: dict[str, int] | None = None
        self._times: Final = times
        self._keys: Final[dict[str, tuple[int, int, str]]] = {}
        self._asked: frozenset[str] = frozenset()
        self._on_way: set[str] = set()

    def charge(self, queue: str, used: int) -> None:
        """The queue, and every node above it, used so much more."""
        for node in ancestors(queue):
            self._keys.pop(node, None)
        self._usage[queue] = self._usage.get(queue, 0) + used
        if self._known is not None:
            _charge(self._known, queue, used)

    @property
    def _used(self) -> dict[str, int]:
        """Use of every node; added up when two queues are first compared."""
        if self._known is None:
            self._known = {}
            for queue, used in self._usage.items():
                _charge(self._known, queue, used)
        return self._known

    def next_of(self, queues: Iterable[str]) -> str:
        """Which of these queues goes first, at least one given. O(queues x depth + children on the way)."""
        queues = list(queues)
        if len(queues) == 1:
            return queues[0]
        if ROOT not in self._below:
            return min(queues)  # nothing is in service
        asked = frozenset(queues)
        if asked != self._asked:
            self._asked, self._on_way = asked, {node for queue in asked for node in ancestors(queue)}
        node = ROOT
        while node in self._below:
            node = min((child for child in self._below[node] if child in self._on_way), key=self._key)
        return node

    def _key(self, node: str) -> tuple[int, int, str]:
        found = self._keys.get(node)
        if found is None:
            used = self._used.get(node, 0) * self._times[node]
            found = self._keys[node] = (used, -self._priorities.get(node, 0), node)
        return found

    def rule(self, ahead: str, behind: str, *, less_ahead: int, less_behind: int) -> str:
        """By which rule one queue went before another when it did.

        Args:
            ahead: the queue that went first.
            behind: the other.
            less_ahead: use charged since then on the side of `ahead`.
            less_behind: use charged since then on the side of `behind`.
        """
        mine, other = siblings(ahead, behind)
        used = (self._used.get(mine, 0) - less_ahead) * self._times[mine]
        others = (self._used.get(other, 0) - less_behind) * self._times[other]
        return FAIR_SHARE if used != others else PRIORITY_CLASS


def _charge(known: dict[str, int], queue: str, used: int) -> None:
    """The queue, and every node above it, used so much more."""
    for node in ancestors(queue):
        known[node] = known.get(node, 0) + used


def siblings(one: str, other: str) -> tuple[str, str]:
    """The nodes on the paths of two different queues at the level where they part."""
    pairs = zip(reversed(ancestors(one)), reversed(ancestors(other)), strict=False)
    return next((mine, its) for mine, its in pairs if mine != its)
