"""In which order jobs get their turn: a total order, written rule by rule.

The first rule on which two jobs differ decides, and is what a waiting user is told.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from quota.model import Policy
from quota.policy import policy_queue
from scheduler.model import PendingJob


@dataclass(frozen=True, slots=True)
class Rule:
    """One criterion of the order. `key` of (job, priority of its queue): the smaller goes first."""

    name: str
    key: Callable[[PendingJob, int], int]


RULES: tuple[Rule, ...] = (
    Rule("priority_class", lambda _, queue_priority: -queue_priority),
    Rule("job_priority", lambda job, _: -job.priority),
    Rule("submitted", lambda job, _: job.submitted_ms),
    Rule("id", lambda job, _: job.id),
)
"""The order: queue of higher priority, job of higher priority, earlier submission, smaller id.

Source: the multifactor order of Slurm's priority plugin with each factor strict instead of weighted, so that
one criterion, and not a sum of them, can be named as the reason.
"""


def queue_priorities(policy: Policy) -> Mapping[str, int]:
    """Priority of every queue of the tree and of every removed queue that has a successor."""
    stated = {node.path: node.priority for node in policy.tree}
    return stated | {queue: stated.get(policy_queue(policy, queue), 0) for queue in policy.moves}


def in_order(pending: Iterable[PendingJob], priorities: Mapping[str, int]) -> list[PendingJob]:
    """The jobs in the order of RULES; ids are unique, so there are no ties. O(n log n)."""
    return sorted(pending, key=lambda job: _keys(job, priorities))


def deciding_rule(ahead: PendingJob, behind: PendingJob, priorities: Mapping[str, int]) -> str:
    """Name of the first rule on which two different jobs differ."""
    pairs = zip(RULES, _keys(ahead, priorities), _keys(behind, priorities), strict=True)
    return next(rule.name for rule, first, second in pairs if first != second)


def _keys(job: PendingJob, priorities: Mapping[str, int]) -> tuple[int, ...]:
    """The job's place: one number per rule."""
    queue_priority = priorities.get(job.queue, 0)
    return tuple(rule.key(job, queue_priority) for rule in RULES)
