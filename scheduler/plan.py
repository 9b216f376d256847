"""One scheduling cycle: a snapshot and the policy in, the plan out; nothing is read or changed on the way."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Container, Sequence
from dataclasses import replace

from quota.model import Policy
from scheduler.entries import Entries, waits_of
from scheduler.index import Index
from scheduler.model import (
    Admit,
    Expire,
    JobId,
    Plan,
    PlanEntry,
    Preempt,
    Reserve,
    Snapshot,
    Wait,
)
from scheduler.moved import moved
from scheduler.order import AGED
from scheduler.profile import Hold
from scheduler.reasons import Reasons
from scheduler.running import EXPIRE_SLACK_S
from scheduler.second_turns import second_turns
from scheduler.spare import replan_unsound, spare_needless, start_reclaimers
from scheduler.turns import Turns

__all__ = ["AGED", "EXPIRE_SLACK_S", "effects_digest", "make_plan", "plan_digest", "plan_to_json"]


def make_plan(snapshot: Snapshot, policy: Policy, index: Index | None = None) -> Plan:
    """Decide one cycle.

    Every pending job is in exactly one `Admit` or `Wait`. The same input gives the same plan; planned again at
    the same instant after the plan was applied, nothing more starts and nobody else gets notice, but for what
    ARCHITECTURE.md names at its end.
    A placement per start and per kind of job that is refused, a search per planned start; reasons when read.

    Args:
        snapshot: frozen and sorted, with the instant it is for.
        policy: the policy in force.
        index: what the last cycle knew, carried on to this one; the plan is the same without. Then
            O(p log p) for p pending jobs, and with it their number costs a look at each one's identity.
    """
    turns = Turns(snapshot, policy, index)
    expired = _expire(turns)
    turns.keep_reclaims()
    turns.entitled()
    turns.planned()
    turns.borrowed()
    second_turns(turns)
    while start_reclaimers(turns) or (spare_needless(turns) and start_reclaimers(turns)):
        second_turns(turns)
    replan_unsound(turns)
    holds = turns.world.holds()
    return Plan(
        snapshot.at_ms,
        snapshot.version,
        policy.version,
        Entries(
            (*expired, *_admits(turns)),
            lambda jobs: _waits(turns, jobs),
            (*_reserves(turns, holds), *_preempts(holds)),
        ),
        _next_ms(turns, holds),
        moved(turns),
        sum(snapshot.capacity.values()),
    )


def _expire(turns: Turns) -> list[PlanEntry]:
    """Attempts that outlived their walltime and whose node did not stop them, by name."""
    return [Expire(name) for name in sorted(turns.outlived)]


def _admits(turns: Turns) -> list[PlanEntry]:
    """Starts in the order in which they were decided."""
    return [
        Admit(start.job.id, start.fit.slots, start.fit.grant_id, start.fit.claim_s, start.fit.share_class)
        for start in turns.starts
    ]


def _waits(turns: Turns, jobs: Container[JobId] | None) -> list[Wait]:
    """Reasons of these jobs, of all that wait for None, by job."""
    reasons = Reasons(turns)
    found = (reasons.of(job, waits) for job, waits in turns.waiting() if jobs is None or job.id in jobs)
    return sorted(found, key=lambda wait: wait.job_id)


def _reserves(turns: Turns, holds: Sequence[Hold]) -> list[PlanEntry]:
    """Planned starts, by job."""
    rooms = turns.world.free
    return [
        Reserve(
            job_id=hold.job_id,
            start_ms=hold.start_ms,
            place=rooms.of_flavor(hold.flavor).named(hold.picks),
            flavor=hold.flavor,
            share_class=hold.share_class,
            is_reclaim=hold.is_reclaim,
        )
        for hold in holds
    ]


def _preempts(holds: Sequence[Hold]) -> list[PlanEntry]:
    """Notices that go out now, by job and victim."""
    return [
        Preempt(victim, hold.job_id, hold.start_ms)
        for hold in holds
        if hold.is_reclaim
        for victim in sorted(hold.victims)
    ]


def _next_ms(turns: Turns, holds: Sequence[Hold]) -> int | None:
    """When the next planned start comes or its victims have to get notice."""

    def due_ms(hold: Hold) -> int:
        runs = turns.world.profiles[hold.flavor].runs
        graces = [runs[victim].grace_ms for victim in hold.victims]
        return hold.start_ms - (0 if hold.is_reclaim else max(graces, default=0))

    found = [due_ms(hold) for hold in holds]
    return min((at_ms for at_ms in found if at_ms > turns.world.at_ms), default=None)


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


def effects_digest(plan: Plan, jobs: Collection[JobId]) -> str:
    """SHA-256 (hex) of the plan less the reasons of all but these jobs, as canonical JSON.

    What a cycle did is its effects and the reasons it wrote; working out all the others for a digest would cost
    more than the plan.
    """
    waits = waits_of(plan, frozenset(jobs)) if jobs else ()
    return effects_digest_with(plan, waits)


def effects_digest_with(plan: Plan, waits: Sequence[Wait]) -> str:
    """The same where the reasons that the cycle wrote are at hand, by job."""
    return plan_digest(replace(plan, entries=(*plan.effects, *waits)))


def _entry_to_json(entry: PlanEntry) -> dict[str, object]:
    """One entry with its kind."""
    match entry:
        case Expire():
            return {"kind": "expire", "attempt_id": entry.attempt_id}
        case Preempt():
            return {
                "kind": "preempt",
                "attempt_id": entry.attempt_id,
                "for_job": entry.for_job,
                "stop_ms": entry.stop_ms,
            }
        case Reserve():
            return {
                "kind": "reserve",
                "job_id": entry.job_id,
                "start_ms": entry.start_ms,
                "place": [[node, gpus] for node, gpus in entry.place],
                "flavor": entry.flavor,
                "share_class": entry.share_class,
                "is_reclaim": entry.is_reclaim,
            }
        case Admit():
            return {
                "kind": "admit",
                "job_id": entry.job_id,
                "slots": [{"node": slot.node, "gpu_uuids": list(slot.gpu_uuids)} for slot in entry.slots],
                "grant_id": str(entry.grant_id),
                "claim_s": entry.claim_s,
                "share_class": entry.share_class,
            }
        case _:
            numbers = dict(entry.numbers)
            return {"kind": "wait", "job_id": entry.job_id, "reason": entry.reason, "numbers": numbers}
