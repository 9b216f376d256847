"""What another policy would do to the machine as it stands: who gains, who loses, who would be reclaimed. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from quota.model import Policy
from quota.policy import policy_queue
from quota.tree import WHOLE, pool_of
from scheduler.bounds import NO_LIMITS, Bounds
from scheduler.model import Admit, AttemptId, Preempt, Snapshot
from scheduler.plan import make_plan
from scheduler.shares import Shares
from scheduler.world import World

_Figures = Mapping[tuple[str, str], tuple[int, int, int]]
"""Nominal, held and borrowed by queue and pool."""
_NOTHING: Final = (0, 0, 0)


@dataclass(frozen=True, slots=True)
class Change:
    """A queue under two policies in one pool: whole GPUs, or slices of one flavor.

    Args:
        nominal_before: what it is guaranteed now.
        nominal_after: and under the other policy.
        held: what its jobs hold, where they count under the other policy.
        borrowed_before: of that, what is borrowed now.
        borrowed_after: and under the other policy.
    """

    nominal_before: int = 0
    nominal_after: int = 0
    held: int = 0
    borrowed_before: int = 0
    borrowed_after: int = 0


@dataclass(frozen=True, slots=True)
class QueueChange(Change):
    """A queue under two policies, in whole GPUs, and in slices of each flavor in service.

    Args:
        path: of the queue; one of the two policies may not have it.
        slices: by flavor.
    """

    path: str = ""
    slices: tuple[tuple[str, Change], ...] = ()


@dataclass(frozen=True, slots=True)
class Preview:
    """Every queue under both policies, and what the first cycle under the other one would do.

    Args:
        queues: by path.
        preempting: attempts that would get notice, beyond those that have it or would get it anyhow.
        admitted: waiting jobs that would start, and would not under the policy in force.
    """

    queues: tuple[QueueChange, ...]
    preempting: tuple[AttemptId, ...]
    admitted: tuple[int, ...]


def preview(snapshot: Snapshot, now: Policy, other: Policy) -> Preview:
    """Set the machine as it stands under another policy; two plans, nothing is changed."""
    snapshot = replace(snapshot, reservations=())
    before, after = _of_queues(snapshot, now), _of_queues(snapshot, other)
    pools = sorted({pool_of(flavor) for flavor in snapshot.capacity} - {WHOLE})
    queues = tuple(
        _change(before, after, path, tuple(pools)) for path in sorted({path for path, _ in (*before, *after)})
    )
    told, started = _of_plan(snapshot, now)
    told_after, started_after = _of_plan(snapshot, other)
    return Preview(queues, tuple(sorted(told_after - told)), tuple(sorted(started_after - started)))


def _change(before: _Figures, after: _Figures, path: str, pools: tuple[str, ...]) -> QueueChange:
    """One queue: whole GPUs, and the slices of each pool."""

    def of(pool: str) -> tuple[int, int, int, int, int]:
        nominal, _, borrowed = before.get((path, pool), _NOTHING)
        nominal_after, held, borrowed_after = after.get((path, pool), _NOTHING)
        return (nominal, nominal_after, held, borrowed, borrowed_after)

    return QueueChange(*of(WHOLE), path=path, slices=tuple((pool, Change(*of(pool))) for pool in pools))


def _of_queues(snapshot: Snapshot, policy: Policy) -> _Figures:
    """Nominal, held and borrowed of every queue in every pool in service, and in that of whole GPUs."""
    bounds = Bounds(snapshot, policy)
    world = World(snapshot, bounds)
    flavor_of = {node.name: node.flavor for node in snapshot.nodes}
    held: dict[tuple[str, str], int] = {}
    for attempt in snapshot.live:
        flavor = flavor_of.get(attempt.slots[0].node, attempt.request.flavors[0])
        key = (policy_queue(policy, attempt.queue), pool_of(flavor))
        held[key] = held.get(key, 0) + attempt.request.gpus
    found: dict[tuple[str, str], tuple[int, int, int]] = {}
    for pool in {WHOLE, *bounds.trees}:
        shares: Shares | None = world.shares.get(pool)
        nominal = bounds.trees.get(pool, NO_LIMITS).nominal
        for queue in bounds.queues:
            entitled = 0 if shares is None else shares.charged(queue, snapshot.at_ms)[0]
            gpus = held.get((queue, pool), 0)
            found[queue, pool] = (nominal.get(queue, 0), gpus, max(0, gpus - entitled))
    return found


def _of_plan(snapshot: Snapshot, policy: Policy) -> tuple[set[AttemptId], set[int]]:
    plan = make_plan(snapshot, policy)
    told = {entry.attempt_id for entry in plan.entries if isinstance(entry, Preempt)}
    return told, {int(entry.job_id) for entry in plan.entries if isinstance(entry, Admit)}
