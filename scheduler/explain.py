"""Why a job waits, in full: its place, who is ahead by which rule, when it may start, what would start it now.

The smallest change is found by asking the very same plan: with the change the job starts, with one unit less
it does not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from quota.model import Policy
from quota.policy import policy_queue
from quota.tree import WHOLE
from scheduler.model import Admit, JobId, PendingJob, ReasonCode, Request, Reserve, Snapshot, Wait
from scheduler.order import Aging, deciding_rule, in_order
from scheduler.plan import make_plan
from scheduler.world import NO_LIMITS, Bounds

MAX_AHEAD: Final = 10
"""Jobs of the queue that are named as ahead: who reads it reads the first lines."""
MAX_TRIED: Final = 2_000
"""Waiting jobs up to which changes are looked for: each try is a whole plan, and some thirty are made."""
UNMENDED: Final = frozenset(
    {
        ReasonCode.NEVER_FITS,
        ReasonCode.PROJECT_SUSPENDED,
        ReasonCode.HELD,
        ReasonCode.PAUSED,
        ReasonCode.DEPENDENCY,
        ReasonCode.BEGIN_TIME,
        ReasonCode.ARRAY_CAP,
        ReasonCode.BACKOFF,
    }
)
"""Reasons that asking for less does not mend; for NEVER_FITS the numbers say what would fit."""


@dataclass(frozen=True, slots=True)
class Change:
    """The smallest change of a request that starts the job now: what (`gpus` or `walltime_s`), from, to."""

    what: str
    old: int
    new: int


@dataclass(frozen=True, slots=True)
class Explanation:
    """What a waiting user is told.

    Args:
        place: in its queue, from 1.
        ahead: jobs of the queue before it, nearest first, each with the rule, at most MAX_AHEAD.
        start_ms: the planned start where the job holds one, counted with full walltimes of all that run: it
            comes no later unless entitled work, a lost node, a policy or an operator moves it.
        changes: what would start it now, each on its own; empty where nothing smaller does, and where more than
            MAX_TRIED jobs wait.
    """

    job_id: JobId
    wait: Wait
    place: int
    ahead: tuple[tuple[JobId, str], ...]
    start_ms: int | None
    changes: tuple[Change, ...]


def explain(job_id: JobId, snapshot: Snapshot, policy: Policy) -> Explanation | None:
    """Explain why a job of the snapshot waits; None when it starts in this cycle or is not waiting.

    O(log walltime + log GPUs) plans; one plan where asking for less mends nothing.
    """
    plan = make_plan(snapshot, policy)
    waits = [entry for entry in plan.entries if isinstance(entry, Wait) and entry.job_id == job_id]
    if not waits:
        return None
    job = next(job for job in snapshot.pending if job.id == job_id)
    place, ahead = _ahead(job, snapshot, policy)
    starts = (
        entry.start_ms for entry in plan.entries if isinstance(entry, Reserve) and entry.job_id == job_id
    )
    is_tried = waits[0].reason not in UNMENDED and len(snapshot.pending) <= MAX_TRIED
    changes = _changes(job, snapshot, policy) if is_tried else ()
    return Explanation(job_id, waits[0], place, ahead, next(starts, None), changes)


def _ahead(job: PendingJob, snapshot: Snapshot, policy: Policy) -> tuple[int, tuple[tuple[JobId, str], ...]]:
    """The job's place in its queue, and who of the queue is before it."""
    queue = policy_queue(policy, job.queue)
    tree = Bounds(snapshot, policy).trees.get(WHOLE, NO_LIMITS)
    aging = Aging(snapshot.at_ms, policy.aging_full_after_s, tree.nominal)
    peers = [other for other in snapshot.pending if policy_queue(policy, other.queue) == queue]
    before = in_order(peers, aging, queue)
    before = before[: before.index(job)]
    nearest = reversed(before[-MAX_AHEAD:])
    return len(before) + 1, tuple((other.id, deciding_rule(other, job, aging, queue)) for other in nearest)


def _changes(job: PendingJob, snapshot: Snapshot, policy: Policy) -> tuple[Change, ...]:
    """Fewer GPUs, and a shorter walltime, as far as either alone starts the job."""
    step = job.request.nodes or 1

    def with_gpus(steps: int) -> Request:
        return replace(job.request, gpus=steps * step)

    def with_walltime(walltime_s: int) -> Request:
        return replace(job.request, walltime_s=walltime_s)

    def starts(request: Request) -> bool:
        changed = tuple(
            replace(job, request=request) if other is job else other for other in snapshot.pending
        )
        plan = make_plan(replace(snapshot, pending=changed), policy)
        return any(isinstance(entry, Admit) and entry.job_id == job.id for entry in plan.entries)

    found: list[Change] = []
    steps = _most(job.request.gpus // step, lambda number: starts(with_gpus(number)))
    if steps:
        found.append(Change("gpus", job.request.gpus, steps * step))
    walltime_s = _most(job.request.walltime_s, lambda number: starts(with_walltime(number)))
    if walltime_s:
        found.append(Change("walltime_s", job.request.walltime_s, walltime_s))
    return tuple(found)


def _most(asked: int, starts: Callable[[int], bool]) -> int:
    """The most below `asked` that starts while one more does not; 0 when not even 1 does."""
    if asked < 1 or not starts(1):
        return 0
    low, high = 1, asked  # `low` starts, `high` does not
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if starts(middle) else (low, middle)
    return low
