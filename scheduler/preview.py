"""What another policy would do to the machine as it stands: who gains, who loses, who would be reclaimed. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from quota.model import Policy
from quota.policy import policy_queue
from quota.tree import WHOLE
from scheduler.model import Admit, AttemptId, Preempt, Snapshot
from scheduler.plan import make_plan
from scheduler.shares import Shares
from scheduler.world import NO_LIMITS, Bounds, World


@dataclass(frozen=True, slots=True)
class QueueChange:
    """A queue under two policies, in GPUs of the whole pool.

    Args:
        path: of the queue; one of the two policies may not have it.
        nominal_before: what it is guaranteed now.
        nominal_after: and under the other policy.
        held: what its jobs hold, where they count under the other policy.
        borrowed_before: of that, what is borrowed now.
        borrowed_after: and under the other policy.
    """

    path: str
    nominal_before: int
    nominal_after: int
    held: int
    borrowed_before: int
    borrowed_after: int


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
    held = {path: gpus for path, (_, gpus, _) in after.items()}
    paths = sorted({*before, *after})
    none = (0, 0, 0)
    queues = tuple(
        QueueChange(
            path,
            before.get(path, none)[0],
            after.get(path, none)[0],
            held.get(path, 0),
            before.get(path, none)[2],
            after.get(path, none)[2],
        )
        for path in paths
    )
    told, started = _of_plan(snapshot, now)
    told_after, started_after = _of_plan(snapshot, other)
    return Preview(queues, tuple(sorted(told_after - told)), tuple(sorted(started_after - started)))


def _of_queues(snapshot: Snapshot, policy: Policy) -> Mapping[str, tuple[int, int, int]]:
    """Nominal, held and borrowed GPUs of every queue."""
    bounds = Bounds(snapshot, policy)
    world = World(snapshot, bounds)
    tree = bounds.trees.get(WHOLE, NO_LIMITS)
    shares: Shares | None = world.shares.get(WHOLE)
    held: dict[str, int] = {}
    for attempt in snapshot.live:
        queue = policy_queue(policy, attempt.queue)
        held[queue] = held.get(queue, 0) + attempt.request.gpus
    found: dict[str, tuple[int, int, int]] = {}
    for queue in bounds.queues:
        entitled = 0 if shares is None else shares.charged(queue, snapshot.at_ms)[0]
        gpus = held.get(queue, 0)
        found[queue] = (tree.nominal.get(queue, 0), gpus, max(0, gpus - entitled))
    return found


def _of_plan(snapshot: Snapshot, policy: Policy) -> tuple[set[AttemptId], set[int]]:
    plan = make_plan(snapshot, policy)
    told = {entry.attempt_id for entry in plan.entries if isinstance(entry, Preempt)}
    return told, {int(entry.job_id) for entry in plan.entries if isinstance(entry, Admit)}
