"""The turns of one cycle: every waiting job starts, or takes back, or plans its start, and gets its reason."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Final

from quota.fairshare import entry_charge
from quota.model import Policy
from quota.policy import policy_queue
from quota.tree import WHOLE
from scheduler.fit import Bounds, Fit, NoFit, World, fits_eligible, has_room, is_free_to_start, not_eligible
from scheduler.model import JobId, PendingJob, ReasonCode, Reservation, ShareClass, Snapshot
from scheduler.order import Aging, FairShare, by_queue
from scheduler.place import Picks
from scheduler.profile import OVERDUE_MS, Hold
from scheduler.reserve import Search, earliest, reclaim
from scheduler.world import NO_LIMITS

ROOM_REASONS: Final = frozenset(
    {
        ReasonCode.QUEUE_LIMIT,
        ReasonCode.BORROWING_LIMIT,
        ReasonCode.NO_CAPACITY,
        ReasonCode.FRAGMENTED,
        ReasonCode.FRAGMENTED_BY_ENTITLED,
        ReasonCode.RESERVED_FOR,
        ReasonCode.MAINTENANCE,
    }
)
"""Refusals that time can mend: another job's end, or that of a window."""


@dataclass(frozen=True, slots=True)
class Started:
    """A start of this cycle. `rule` says how its turn came; `charge` is what it added to its queue's use."""

    job: PendingJob
    queue: str
    fit: Fit
    charge: int
    is_planned: bool = False


@dataclass(slots=True)
class Waits:
    """What kept a job from starting at its turn."""

    job: PendingJob
    refusal: NoFit
    is_entitled: bool = False
    shield: PendingJob | None = None
    is_free: bool = False


@dataclass(slots=True)
class Line:
    """The jobs of one queue that were not decided yet, in their order, and where the walk is.

    Args:
        passed: jobs that are not entitled and stand before entitled ones; their turn comes after all entitled.
        seen: how many of them were asked whether they may plan a start.
        ahead: planned starts of passed jobs; they bind the queue itself until their turn comes.
        shield: an aged job that could not start: no later one of the queue starts before it.
    """

    queue: str
    jobs: list[PendingJob]
    next: int = 0
    passed: list[PendingJob] = field(default_factory=list)
    seen: int = 0
    ahead: dict[JobId, Hold] = field(default_factory=dict)
    shield: PendingJob | None = None


class Turns:
    """Working state of one cycle; see `scheduler.plan.make_plan` for its steps.

    Args:
        snapshot: what the cycle plans from.
        policy: the policy in force.
    """

    def __init__(self, snapshot: Snapshot, policy: Policy) -> None:
        self.snapshot: Final = snapshot
        self.policy: Final = policy
        self.bounds: Final = Bounds(snapshot, policy)
        self.world: Final = World(snapshot, self.bounds)
        tree = self.bounds.trees.get(WHOLE, NO_LIMITS)
        self.aging: Final = Aging(snapshot.at_ms, policy.aging_full_after_s, tree.nominal)
        queues = by_queue(snapshot.pending, policy, self.aging)
        self.lines: Final = {
            queue: Line(queue, jobs) for queue, jobs in queues.items() if queue in self.bounds.queues
        }
        self.strays: Final = [
            job for queue, jobs in queues.items() if queue not in self.bounds.queues for job in jobs
        ]
        priorities = {node.path: node.priority for node in policy.tree}
        self.fair: Final = FairShare(tree, snapshot.usage, priorities)
        groups: dict[object, int] = {}
        self.groups: Final = {
            job.id: groups.setdefault((job.queue, job.request, job.project_id), len(groups))
            for job in snapshot.pending
        }
        self.jobs: Final = {job.id: job for job in snapshot.pending}
        self.standing: Final = {
            kept.job_id: kept
            for kept in snapshot.reservations
            if kept.job_id in self.jobs and not_eligible(self.jobs[kept.job_id], self.world) is None
        }
        self.holders: Final = {job_id for job_id, kept in self.standing.items() if not kept.is_reclaim}
        self.starts: Final[list[Started]] = []
        self.waits: Final[dict[JobId, Waits]] = {}
        self.decided: Final[set[JobId]] = set()
        self.reclaims: Final[list[JobId]] = []
        self._refused: Final[dict[int, tuple[int, NoFit]]] = {}
        self._eligible: Final[dict[int, int]] = {}
        self._unbought: Final[dict[int, int]] = {}

    # Step 0: what victims make room for is out of everyone's reach.

    def keep_reclaims(self) -> None:
        """Starts that attempts were given notice for stand first; those whose GPUs are free begin."""
        fixed = [kept for kept in self._standing() if kept.is_reclaim or kept.planned_ms == self.world.at_ms]
        for kept in fixed:
            self._restore(kept)
        for kept in fixed:
            if kept.is_reclaim:
                self._decide_fixed(self.jobs[kept.job_id])

    def _standing(self) -> list[Reservation]:
        return sorted(self.standing.values(), key=lambda kept: (kept.start_ms, kept.job_id))

    def _restore(self, kept: Reservation) -> None:
        """Put a planned start back on its nodes if it can still be."""
        job = self.jobs[kept.job_id]
        picks = self._picks(kept)
        if picks is None:
            return
        search = Search(job, kept.flavor, self.world)
        for start_ms in (max(kept.start_ms, self.world.at_ms), self.world.at_ms + OVERDUE_MS):
            hold = search.at(start_ms, may_reclaim=not kept.is_reclaim, only=picks)
            if hold is not None:
                self.world.hold(replace(hold, is_reclaim=kept.is_reclaim))
                return

    def _picks(self, kept: Reservation) -> Picks | None:
        """The planned nodes by position; None where one is gone."""
        index = self.world.free.of_flavor(kept.flavor).index
        if not all(node in index for node, _ in kept.place):
            return None
        return tuple((index[node], gpus) for node, gpus in kept.place)

    def _decide_fixed(self, job: PendingJob) -> None:
        """A job that GPUs were taken back for starts on exactly these, and nowhere else."""
        hold = self.world.release(job.id)
        if hold is None:
            self.standing.pop(job.id)  # its nodes are gone: it looks for others at its turn
            return
        rooms = self.world.free.of_flavor(hold.flavor)
        if all(rooms.free[node] >= gpus for node, gpus in hold.picks):
            slots = self.world.free.slots(rooms.named(hold.picks))
            found = fits_eligible(job, self.world, slots=slots)
            if isinstance(found, Fit):
                self._start(job, found, is_planned=True)
                return
        self.world.hold(hold)
        self._wait(job, NoFit(ReasonCode.RECLAIMING, {"gpus": hold.gpus, "until_ms": hold.start_ms}))

    # Step 1: entitled work of all queues.

    def entitled(self) -> None:
        """Jobs that are entitled now, queue by queue as fair share says, each queue in its own order."""
        for job in self.strays:
            self._is_refused(job)  # the policy has no such queue
        waiting = {queue for queue, line in self.lines.items() if self._has_entitled(line)}
        while waiting:
            line = self.lines[self.fair.next_of(waiting)]
            starts = len(self.starts)
            while len(self.starts) == starts and self._has_entitled(line):
                self._entitled_turn(line)
            if not self._has_entitled(line):
                waiting.discard(line.queue)

    def _has_entitled(self, line: Line) -> bool:
        """Walk the line up to its next job that is entitled now; what is not is passed."""
        while line.next < len(line.jobs):
            job = line.jobs[line.next]
            if job.id not in self.decided and not self._is_refused(job):
                if self.is_entitled(job):
                    return True
                line.passed.append(job)
                if line.shield is None and self.aging.is_aged(job, line.queue):
                    line.shield = job
            line.next += 1
        return False

    def _is_refused(self, job: PendingJob) -> bool:
        """Whether nothing that others do can start the job; then that is its reason."""
        group, version = self.groups[job.id], self.world.version
        if self._eligible.get(group) == version and is_free_to_start(job, self.world.at_ms):
            return False  # a like job was asked for, and nothing has started since
        refusal = not_eligible(job, self.world)
        if refusal is not None:
            self._wait(job, refusal)
            return True
        self._eligible[group] = version
        return False

    def is_entitled(self, job: PendingJob) -> bool:
        """Whether the job would be entitled if it started now, on any flavor it takes."""
        queue = policy_queue(self.policy, job.queue)
        return any(
            self.world.shares_of(flavor).class_now(queue, job.request.gpus) is ShareClass.ENTITLED
            for flavor in job.request.flavors
            if flavor in self.world.profiles
        )

    def _entitled_turn(self, line: Line) -> None:
        """The next entitled job of a queue, considered against what stands before it in its own queue."""
        job = line.jobs[line.next]
        line.next += 1
        self._plan_ahead(line)
        self._turn(job, line, is_entitled=True)
        for passed in line.ahead:
            self.world.release(passed)

    def _plan_ahead(self, line: Line) -> None:
        """Plan the starts of the queue's passed jobs, as far as they may hold one; only the queue sees them."""
        for job_id, before in list(line.ahead.items()):
            search = Search(self.jobs[job_id], before.flavor, self.world)
            self._hold_ahead(line, self.jobs[job_id], search.at(before.start_ms, only=before.picks))
        for job in line.passed[line.seen :]:
            if job.id not in self.world.held and self._may_reserve(job):
                self.holders.add(job.id)
                if job.id in self.standing:
                    self._restore(self.standing[job.id])
                self._hold_ahead(line, job, self.world.release(job.id))
        line.seen = len(line.passed)

    def _hold_ahead(self, line: Line, job: PendingJob, before: Hold | None) -> None:
        """The planned start of a passed job as it was, or anew where others took its place."""
        hold = before or earliest(job, self.world)
        line.ahead.pop(job.id, None)
        if hold is not None:
            self.world.hold(hold)
            line.ahead[job.id] = hold

    # Step 2: planned starts go before work that is not entitled now; then everyone else.

    def planned(self) -> None:
        """Starts that stand from before, in the order of their instants."""
        left = [kept for kept in self._standing() if kept.job_id not in self.decided]
        for kept in left:
            if kept.job_id not in self.world.held:
                self._restore(kept)
        for kept in left:
            job = self.jobs[kept.job_id]
            line = self.lines.get(policy_queue(self.policy, job.queue))
            if line is not None and not self._is_refused(job):
                self._turn(job, line, is_entitled=False, is_planned=True)

    def borrowed(self) -> None:
        """All other jobs, queue by queue as fair share says."""
        waiting = {
            queue: iter([job for job in line.passed if job.id not in self.decided])
            for queue, line in self.lines.items()
        }
        waiting = {queue: jobs for queue, jobs in waiting.items() if self.lines[queue].passed}
        while waiting:
            queue = self.fair.next_of(waiting)
            if not self._borrowed_turns(self.lines[queue], waiting[queue]):
                del waiting[queue]

    def _borrowed_turns(self, line: Line, jobs: Iterator[PendingJob]) -> bool:
        """Turns of a queue until one of its jobs starts; whether one did."""
        for job in jobs:
            if job.id not in self.decided and not self._is_refused(job):
                starts = len(self.starts)
                self._turn(job, line, is_entitled=False)
                if len(self.starts) > starts:
                    return True
        return False

    # Step 3: what was kept for a job that then went elsewhere is there for those it kept waiting.

    def second_turns(self) -> None:
        """Jobs that waited for a planned start that moved, or for an aged job that started, get another turn."""
        is_moving = True
        while is_moving:
            is_moving = False
            started = {start.job.id for start in self.starts}
            held = self.world.held
            for waits in [waits for waits in self.waits.values() if waits.job.id not in started]:
                if self._is_freed(waits, started, held):
                    starts = len(self.starts)
                    line = self.lines[policy_queue(self.policy, waits.job.queue)]
                    if line.shield is not None and line.shield.id in started:
                        line.shield = None
                    self._turn(waits.job, line, is_entitled=self.is_entitled(waits.job))
                    is_moving = is_moving or len(self.starts) > starts

    def _is_freed(self, waits: Waits, started: set[JobId], held: dict[JobId, Hold]) -> bool:
        """Whether what kept the job from starting is there no more."""
        if waits.shield is not None:
            return waits.shield.id in started
        if waits.refusal.reason is not ReasonCode.RESERVED_FOR or "window" in waits.refusal.numbers:
            return False
        ahead = held.get(JobId(int(waits.refusal.numbers["job"])))
        return ahead is None or ahead.start_ms != waits.refusal.numbers["start_ms"]

    # A job's turn.

    def _turn(self, job: PendingJob, line: Line, *, is_entitled: bool, is_planned: bool = False) -> None:
        """The job starts; else, if entitled, takes back; else plans its start; else it just waits."""
        own = self.world.release(job.id)
        found = self._fits(job)
        shield = line.shield
        if shield is job or (shield is not None and shield.submitted_ms >= job.submitted_ms):
            shield = None
        if isinstance(found, Fit) and shield is None:
            self._start(job, found, is_planned=is_planned)
            return
        if isinstance(found, Fit):
            found = NoFit(ReasonCode.WAITING_TURN, {})
        self._wait(job, found, is_entitled=is_entitled, shield=shield)
        if shield is not None and own is None:
            return
        is_shield = (
            line.shield in {None, job}
            and self.aging.is_aged(job, line.queue)
            and found.reason in ROOM_REASONS
        )
        if is_shield:
            line.shield = job
        hold = self._take_back(job) if is_entitled and (own is None or not own.victims) else None
        if hold is None and (own is not None or is_shield or self._may_reserve(job)):
            hold = self._replan(job, own)
        if hold is not None:
            self._plan(hold)

    def _fits(self, job: PendingJob) -> Fit | NoFit:
        """`fits` with its refusals remembered while nothing changes: a flood of like jobs costs one answer."""
        key = self.groups[job.id]
        known = self._refused.get(key)
        if known is not None and known[0] == self.world.version:
            return known[1]
        found = fits_eligible(job, self.world)
        if isinstance(found, NoFit):
            self._refused[key] = (self.world.version, found)
        return found

    def _take_back(self, job: PendingJob) -> Hold | None:
        """The start that reclaiming buys, as a start that is being made room for."""
        key = self.groups[job.id]
        if self._unbought.get(key) == self.world.version:
            return None
        hold = reclaim(job, self.world)
        if hold is None:
            self._unbought[key] = self.world.version
        return hold

    def _replan(self, job: PendingJob, own: Hold | None) -> Hold | None:
        """The start as planned before, unless an earlier one is found; at one instant plans do not change."""
        if own is not None:
            search = Search(job, own.flavor, self.world)
            kept = search.at(own.start_ms, only=own.picks)
            is_new = (
                self.standing[job.id].planned_ms == self.world.at_ms if job.id in self.standing else False
            )
            if kept is not None and is_new:
                return kept
            if kept is not None:
                return earliest(job, self.world, until_ms=kept.start_ms - 1) or kept
        return earliest(job, self.world)

    def _may_reserve(self, job: PendingJob) -> bool:
        return job.id in self.holders or len(self.holders) < self.policy.start_reservations

    def _plan(self, hold: Hold) -> None:
        """A planned start stands; when its victims' grace is all that is left, they get notice now."""
        runs = self.world.profiles[hold.flavor].runs
        grace_ms = max((runs[victim].grace_ms for victim in hold.victims), default=0)
        is_due = bool(hold.victims) and self.world.at_ms + grace_ms >= hold.start_ms
        if is_due:
            hold = replace(hold, is_reclaim=True)
            self.reclaims.append(hold.job_id)
            self.holders.discard(hold.job_id)
            gpus = sum(runs[victim].gpus for victim in hold.victims)
            self.waits[hold.job_id].refusal = NoFit(
                ReasonCode.RECLAIMING, {"gpus": gpus, "until_ms": hold.start_ms}
            )
        else:
            self.holders.add(hold.job_id)
        self.world.hold(hold)

    def _start(self, job: PendingJob, found: Fit, *, is_planned: bool = False) -> None:
        queue = policy_queue(self.policy, job.queue)
        self.world.start(job, found)
        charge = entry_charge(job.request.gpus, self.policy.usage_sampling_s)
        self.fair.charge(queue, charge)
        self.starts.append(Started(job, queue, found, charge, is_planned))
        self.decided.add(job.id)
        self.waits.pop(job.id, None)
        self.holders.discard(job.id)

    def _wait(
        self,
        job: PendingJob,
        refusal: NoFit,
        *,
        is_entitled: bool = False,
        shield: PendingJob | None = None,
    ) -> None:
        self.decided.add(job.id)
        is_free = refusal.reason not in ROOM_REASONS or has_room(job.request, self.world)
        self.waits[job.id] = Waits(job, refusal, is_entitled, shield, is_free=is_free)
