"""One scheduling cycle: a snapshot and the policy in, the plan out; nothing is read or changed on the way."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Final

from quota.model import Policy
from quota.policy import policy_queue
from scheduler.fit import MS, Bounds, Fit, NoFit, World, fits, has_room, shape_of
from scheduler.model import (
    Admit,
    Expire,
    JobState,
    LiveAttempt,
    PendingJob,
    Plan,
    PlanEntry,
    ReasonCode,
    ShareClass,
    Snapshot,
    Wait,
)
from scheduler.order import deciding_rule, in_order, queue_priorities
from scheduler.place import Shape

EXPIRE_SLACK_S: Final = 60
"""Seconds past its walltime before the scheduler itself stops an attempt.

The node stops it first: 30 s from SIGTERM to SIGKILL, and as much again for the exit to be reported.
"""

AGED: Final = "aged"
"""Rule of a wait behind a job of the same queue that has waited for `aging.full_after`."""

_ROOM_REASONS: Final = frozenset({ReasonCode.QUEUE_LIMIT, ReasonCode.NO_CAPACITY, ReasonCode.FRAGMENTED})
"""Refusals that another job's end can mend."""


def make_plan(snapshot: Snapshot, policy: Policy) -> Plan:
    """Decide one cycle.

    Every pending job is in exactly one entry. The same input gives the same plan; planned again at the same
    instant after the plan was applied, nothing more starts. O(p log p) for p pending jobs, and a placement
    per start and per distinct shape.

    Args:
        snapshot: frozen and sorted, with the instant it is for.
        policy: the policy in force.
    """
    cycle = _Cycle(snapshot, policy)
    expired = _expire(snapshot.live, snapshot.at_ms)
    ordered = in_order(snapshot.pending, cycle.priorities)
    decided = [_decide(job, cycle) for job in ordered]
    return Plan(snapshot.at_ms, snapshot.version, policy.version, (*expired, *decided))


class _Cycle:
    """What one pass carries from job to job."""

    def __init__(self, snapshot: Snapshot, policy: Policy) -> None:
        bounds = Bounds(snapshot, policy)
        self.policy: Final = policy
        self.priorities: Final = queue_priorities(policy)
        self.world: Final = World(snapshot, bounds)
        self.before: Final = World(snapshot, bounds)  # stays as the running jobs left it
        self.starts: Final[list[tuple[PendingJob, Fit]]] = []
        self.shields: Final[dict[str, PendingJob]] = {}
        self.took_last_room: Final[dict[Shape, PendingJob]] = {}


def _expire(live: Iterable[LiveAttempt], at_ms: int) -> list[PlanEntry]:
    """Attempts that outlived their walltime and whose node did not stop them."""
    return [
        Expire(attempt.id)
        for attempt in live
        if attempt.committed_ms is not None
        and attempt.state is not JobState.COMPLETING
        and not attempt.is_stopping
        and at_ms >= attempt.committed_ms + (attempt.request.walltime_s + EXPIRE_SLACK_S) * MS
    ]


def _decide(job: PendingJob, cycle: _Cycle) -> PlanEntry:
    """The job's turn: it starts, or gets its reason."""
    queue = policy_queue(cycle.policy, job.queue)
    found = fits(job, cycle.world)
    if isinstance(found, NoFit):
        _shield(job, queue, found, cycle)
        return _why(job, found, cycle)
    aged = cycle.shields.get(queue)
    if aged is not None:
        return Wait(job.id, ReasonCode.WAITING_TURN, {"ahead": aged.id, "rule": AGED})
    cycle.world.start(job, found)
    cycle.starts.append((job, found))
    return Admit(job.id, found.slots, found.grant_id, found.claim_s, ShareClass.ENTITLED)


def _shield(job: PendingJob, queue: str, refusal: NoFit, cycle: _Cycle) -> None:
    """A job that has waited for `aging.full_after` is overtaken no more: it closes its queue behind it."""
    aged_ms = job.submitted_ms + cycle.policy.aging_full_after_s * MS
    if refusal.reason in _ROOM_REASONS and cycle.world.at_ms >= aged_ms:
        cycle.shields.setdefault(queue, job)


def _why(job: PendingJob, refusal: NoFit, cycle: _Cycle) -> Wait:
    """The decisive reason: whoever took the room in this cycle, where it is that, else the refusal itself."""
    if refusal.reason in _ROOM_REASONS and not has_room(job.request, cycle.world):
        before = fits(job, cycle.before)
        if isinstance(before, Fit):
            ahead = _taker(shape_of(job.request, before.flavor), cycle)
            rule = deciding_rule(ahead, job, cycle.priorities)
            return Wait(job.id, ReasonCode.WAITING_TURN, {"ahead": ahead.id, "rule": rule})
    return Wait(job.id, refusal.reason, refusal.numbers)


def _taker(shape: Shape, cycle: _Cycle) -> PendingJob:
    """The start of this cycle after which a shape that fitted before it fits no more."""
    if shape not in cycle.took_last_room:
        free = cycle.before.free.copy()
        replayed = 0
        while free.choose(shape) is not None:  # it fails now, so one of the starts ends this
            free.take(cycle.starts[replayed][1].slots)
            replayed += 1
        cycle.took_last_room[shape] = cycle.starts[replayed - 1][0]
    return cycle.took_last_room[shape]


def plan_to_json(plan: Plan) -> dict[str, object]:
    """The plan as JSON values, entries in order."""
    return {
        "at_ms": plan.at_ms,
        "version": plan.version,
        "policy_version": plan.policy_version,
        "entries": [_entry_to_json(entry) for entry in plan.entries],
    }


def plan_digest(plan: Plan) -> str:
    """SHA-256 (hex) of the plan as canonical JSON: sorted keys, no spaces."""
    canonical = json.dumps(plan_to_json(plan), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def _entry_to_json(entry: PlanEntry) -> dict[str, object]:
    """One entry with its kind."""
    if isinstance(entry, Expire):
        return {"kind": "expire", "attempt_id": entry.attempt_id}
    if isinstance(entry, Wait):
        numbers = dict(entry.numbers)
        return {"kind": "wait", "job_id": entry.job_id, "reason": entry.reason, "numbers": numbers}
    return {
        "kind": "admit",
        "job_id": entry.job_id,
        "slots": [{"node": slot.node, "gpu_uuids": list(slot.gpu_uuids)} for slot in entry.slots],
        "grant_id": str(entry.grant_id),
        "claim_s": entry.claim_s,
        "share_class": entry.share_class,
    }
