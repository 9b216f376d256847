"""Why a job waits, in full: its place, who is ahead by which rule, when it may start, what would start it now.

The smallest change is found by asking the very same plan: with the change the job starts, with one unit less
it does not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from quota.model import Policy
from quota.policy import policy_queue
from scheduler.entries import waits_of
from scheduler.fit import MS, Bounds, Fit, World, can_ever_fit, fits
from scheduler.index import Index
from scheduler.interval import Interval
from scheduler.model import Admit, JobId, PendingJob, Plan, ReasonCode, Request, Reserve, Snapshot, Wait
from scheduler.order import Aging, deciding_rule, in_order
from scheduler.plan import make_plan

MAX_AHEAD: Final = 10
"""Jobs of the queue that are named as ahead: who reads it reads the first lines."""
MAX_TRIED: Final = 20_000
"""Waiting jobs up to which changes are looked for: each try is a whole plan, mostly one."""
MAX_FLAVORS: Final = 8
"""Other flavors that are tried, by name: a cluster has a few kinds of GPU."""
UNMENDED: Final = frozenset(
    {
        ReasonCode.PROJECT_SUSPENDED,
        ReasonCode.HELD,
        ReasonCode.PAUSED,
        ReasonCode.DEPENDENCY,
        ReasonCode.BEGIN_TIME,
        ReasonCode.ARRAY_CAP,
        ReasonCode.BACKOFF,
    }
)
"""Reasons that no other request mends."""


@dataclass(frozen=True, slots=True)
class Change:
    """The smallest change of a request that starts the job now, all else as asked.

    Args:
        what: `gpus`, `walltime_s`, `nodes` (the number asked for is given up) or `flavor`.
        old: what was asked; of a flavor the list, joined by ",".
        new: what starts it, or None for nodes: any number. Of `gpus` and `walltime_s` one unit more does not; the
            unit of `gpus` is one GPU of every node where a number of nodes was asked for.
        is_now: it starts the job now; else it makes possible what NEVER_FITS says is not.
    """

    what: str
    old: int | str
    new: int | str | None
    is_now: bool = True


@dataclass(frozen=True, slots=True)
class Explanation:
    """What a waiting user is told.

    Args:
        place: in its queue, from 1; None for a job that can never start: nobody is ahead of it.
        ahead: jobs of the queue before it, nearest first, each with the rule, at most MAX_AHEAD.
        start_ms: the planned start where the job holds one, counted with full walltimes of all that run: it
            comes no later unless entitled work, a lost node, a policy or an operator moves it.
        changes: what would start it now, each on its own; empty where nothing smaller does, and where more than
            MAX_TRIED jobs wait.
        expected: when it will really start; None where no start is planned.
    """

    job_id: JobId
    wait: Wait
    place: int | None
    ahead: tuple[tuple[JobId, str], ...]
    start_ms: int | None
    changes: tuple[Change, ...]
    expected: Interval | None = None


def explain(job_id: JobId, snapshot: Snapshot, policy: Policy) -> Explanation | None:
    """Explain why a job of the snapshot waits; None when it starts in this cycle or is not waiting."""
    return Explainer().explain(job_id, snapshot, policy)


class Explainer:
    """Explains one job after the other: what one explanation knew of the waiting jobs serves the next.

    One thread uses it. An explanation is the same whatever was asked before.
    """

    def __init__(self) -> None:
        self._index: Final = Index()
        self._planned: tuple[Snapshot, Policy, Plan] | None = None

    def explain(self, job_id: JobId, snapshot: Snapshot, policy: Policy) -> Explanation | None:
        """Explain why a job of the snapshot waits; None when it starts in this cycle or is not waiting.

        Mostly two plans, O(log walltime + log GPUs) at worst; one where no other request mends anything, none for
        NEVER_FITS. Asked about the same snapshot again, it makes that one's plan no second time.
        """
        job = next((job for job in snapshot.pending if job.id == job_id), None)
        if job is None:
            return None
        bounds = self._index.bounds(snapshot, policy)
        never = never_fits(job_id, job.queue, job.request, bounds)
        if never is not None:
            return never
        plan = self._plan(snapshot, policy)
        wait = next(iter(waits_of(plan, {job_id})), None)
        if wait is None:
            return None
        place, ahead = _ahead(job, snapshot, bounds)
        starts = (
            entry.start_ms for entry in plan.effects if isinstance(entry, Reserve) and entry.job_id == job_id
        )
        is_tried = wait.reason not in UNMENDED and len(snapshot.pending) <= MAX_TRIED
        changes = tuple(_changes(_Trial(job, snapshot, policy, self._index), plan)) if is_tried else ()
        return Explanation(job_id, wait, place, ahead, next(starts, None), changes)

    def _plan(self, snapshot: Snapshot, policy: Policy) -> Plan:
        """The plan of a snapshot, made anew for another one."""
        known = self._planned
        if known is None or known[0] is not snapshot or known[1] is not policy:
            known = self._planned = (snapshot, policy, make_plan(snapshot, policy, self._index))
        return known[2]


def never_fits(job_id: JobId, queue: str, request: Request, bounds: Bounds) -> Explanation | None:
    """Explain a job that can never start as asked; None when it could. No plan is made, nothing else is read."""
    never = can_ever_fit(request, queue, bounds)
    if never is None:
        return None
    changes = tuple(_possible(request, queue, bounds))
    return Explanation(job_id, Wait(job_id, ReasonCode.NEVER_FITS, never.numbers), None, (), None, changes)


def _possible(request: Request, queue: str, bounds: Bounds) -> Iterator[Change]:
    """What would make a request possible in an idle cluster, each on its own."""
    never = can_ever_fit(request, queue, bounds)
    numbers = {} if never is None else never.numbers
    most = int(numbers["max_gpus"])
    if 0 < most < request.gpus and can_ever_fit(replace(request, gpus=most), queue, bounds) is None:
        yield Change("gpus", request.gpus, most, is_now=False)
    longest_s = int(numbers.get("max_walltime_s", request.walltime_s))
    if (
        longest_s < request.walltime_s
        and can_ever_fit(replace(request, walltime_s=longest_s), queue, bounds) is None
    ):
        yield Change("walltime_s", request.walltime_s, longest_s, is_now=False)
    for other in _others(request, bounds):
        if can_ever_fit(replace(request, flavors=(other,)), queue, bounds) is None:
            yield Change("flavor", ",".join(request.flavors), other, is_now=False)
            return


def _others(request: Request, bounds: Bounds) -> list[str]:
    """Flavors in service that were not asked for, at most MAX_FLAVORS."""
    return sorted(set(bounds.inventory.flavors) - set(request.flavors))[:MAX_FLAVORS]


def _ahead(job: PendingJob, snapshot: Snapshot, bounds: Bounds) -> tuple[int, tuple[tuple[JobId, str], ...]]:
    """The job's place in its queue, and who of the queue is before it."""
    policy = bounds.policy
    queue = policy_queue(policy, job.queue)
    aging = Aging(snapshot.at_ms, policy.aging_full_after_s, bounds.nominals)
    peers = [other for other in snapshot.pending if policy_queue(policy, other.queue) == queue]
    before = in_order(peers, aging, queue)
    before = before[: before.index(job)]
    nearest = reversed(before[-MAX_AHEAD:])
    return len(before) + 1, tuple((other.id, deciding_rule(other, job, aging, queue)) for other in nearest)


class _Trial:
    """A waiting job, asked for otherwise: does it start now? Plans follow one index, so that a try is cheap."""

    def __init__(self, job: PendingJob, snapshot: Snapshot, policy: Policy, index: Index) -> None:
        self.job: Final = job
        self.bounds: Final = index.bounds(snapshot, policy)
        self._snapshot: Final = snapshot
        self._policy: Final = policy
        self._index: Final = index
        self._place: Final = snapshot.pending.index(job)
        self._before: Final = World(snapshot, self.bounds, index.running)

    def may_start(self, **asked: object) -> bool:
        """Whether the job would fit beside the running jobs alone: without that it cannot start; no plan is made."""
        return isinstance(fits(self._asked(asked), self._before), Fit)

    def starts(self, **asked: object) -> bool:
        """Whether the same plan starts the job with these fields of its request changed."""
        if not self.may_start(**asked):
            return False
        pending = self._snapshot.pending
        others = (*pending[: self._place], self._asked(asked), *pending[self._place + 1 :])
        plan = make_plan(replace(self._snapshot, pending=others), self._policy, self._index)
        return any(isinstance(entry, Admit) and entry.job_id == self.job.id for entry in plan.effects)

    def _asked(self, asked: Mapping[str, object]) -> PendingJob:
        return replace(self.job, request=replace(self.job.request, **asked))  # type: ignore[arg-type]

    def ends_s(self, plan: Plan) -> list[int]:
        """Walltimes that end just when something planned begins, or a grant ends: where most changes lie."""
        at_ms = self._snapshot.at_ms
        instants = [entry.start_ms for entry in plan.effects if isinstance(entry, Reserve)]
        instants += [window.from_ms for window in self._snapshot.windows]
        instants += [
            grant.ends_ms for grant in self._snapshot.grants if grant.project_id == self.job.project_id
        ]
        return sorted({(instant_ms - at_ms) // MS for instant_ms in instants})


def _changes(trial: _Trial, plan: Plan) -> Iterator[Change]:
    """Fewer GPUs, a shorter walltime, any number of nodes, another flavor: as far as each alone starts the job."""
    request = trial.job.request
    step = request.nodes or 1
    fitting = _most(request.gpus // step, lambda number: trial.may_start(gpus=number * step))
    steps = _most_of(fitting, lambda number: trial.starts(gpus=number * step))
    if steps:
        yield Change("gpus", request.gpus, steps * step)
    fitting = _most(request.walltime_s, lambda number: trial.may_start(walltime_s=number))
    walltime_s = _most_of(fitting, lambda number: trial.starts(walltime_s=number), trial.ends_s(plan))
    if walltime_s:
        yield Change("walltime_s", request.walltime_s, walltime_s)
    if request.nodes is not None and trial.starts(nodes=None):
        yield Change("nodes", request.nodes, None)
    for other in _others(request, trial.bounds):
        if trial.starts(flavors=(other,)):
            yield Change("flavor", ",".join(request.flavors), other)
            return


def _most_of(fitting: int, starts: Callable[[int], bool], hints: Sequence[int] = ()) -> int:
    """`_most` where one more than `fitting` would not fit even beside the running jobs alone."""
    if not fitting or starts(fitting):
        return fitting
    return _most(fitting, starts, hints) if fitting > 1 else 0


def _most(asked: int, starts: Callable[[int], bool], hints: Sequence[int] = ()) -> int:
    """The most below `asked` that starts while one more does not; 0 when not even 1 does.

    Args:
        asked: what does not start.
        starts: whether so much does.
        hints: where the answer may lie, ascending; with a good one few questions are asked.
    """
    if asked < 1 or not starts(1):
        return 0
    low, high = 1, asked  # `low` starts, `high` does not
    while left := [hint for hint in hints if low < hint < high]:
        middle = left[len(left) // 2]
        low, high = (middle, high) if starts(middle) else (low, middle)
    if low in hints and high - low > 1 and not starts(low + 1):
        return low
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if starts(middle) else (low, middle)
    return low
