"""One job's turn in a cycle: it starts, or takes back, or plans its start, or waits and is told why."""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

from quota.fairshare import entry_charge, rate_of
from quota.model import Policy
from quota.policy import policy_queue
from scheduler.fit import Fit, NoFit, World, fits_eligible, has_room
from scheduler.index import Index
from scheduler.kept import KeptStarts
from scheduler.lines import Line, Stood, Waits, line_of
from scheduler.model import JobId, PendingJob, ReasonCode, ShareClass, Snapshot
from scheduler.order import Aging, FairShare
from scheduler.profile import Hold
from scheduler.reserve import Search, earliest, reclaim
from scheduler.running import MS

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
BY_PLANNED: Final = frozenset({ReasonCode.QUEUE_LIMIT, ReasonCode.BORROWING_LIMIT, ReasonCode.RESERVED_FOR})
"""Refusals that a planned start may have brought about: by its GPUs, or as it counts against a limit."""


@dataclass(frozen=True, slots=True)
class Started:
    """A start of this cycle. `charge` is what it added to its queue's use; `is_planned`: it was told before."""

    job: PendingJob
    queue: str
    fit: Fit
    charge: int
    is_planned: bool = False


class Turn:
    """Working state of one cycle, and what one job does at its turn.

    Args:
        snapshot: what the cycle plans from.
        policy: the policy in force.
        index: the waiting jobs as the last cycle left them; None = made anew.
    """

    def __init__(self, snapshot: Snapshot, policy: Policy, index: Index | None = None) -> None:
        self.snapshot: Final = snapshot
        self.policy: Final = policy
        self._index: Final = Index() if index is None else index
        self.bounds: Final = self._index.bounds(snapshot, policy)
        self.world: Final = World(snapshot, self.bounds, self._index.running)
        self.outlived: Final = self._index.running.outlived(snapshot.at_ms)
        self.aging: Final = Aging(snapshot.at_ms, policy.aging_full_after_s, self.bounds.nominals)
        self._index.follow(snapshot, policy, self.aging)
        self.jobs: Final = self._index.jobs
        self.fair: Final = FairShare(
            self.bounds.fair_tree, snapshot.usage, self.bounds.priorities, self.bounds.times
        )
        self.kept: Final = KeptStarts(snapshot.reservations, self.jobs, self.world)
        lines = self._lines()
        self.lines: Final = {queue: line for queue, line in lines.items() if queue in self.bounds.queues}
        self.strays: Final = [line for queue, line in lines.items() if queue not in self.bounds.queues]
        self.holders: Final = {job_id for job_id, kept in self.kept.by_job.items() if not kept.is_reclaim}
        self.starts: Final[list[Started]] = []
        self.waits: Final[dict[JobId, Waits]] = {}
        self.started: Final[set[JobId]] = set()
        self.decided: Final[set[JobId]] = set()
        self.reclaims: Final[list[JobId]] = []
        self._refused: Final[dict[int, tuple[int, NoFit]]] = {}
        self._unbought: Final[dict[int, int]] = {}
        self._stood = Stood(0)
        self.is_surplus = False
        """Whether only work that is not entitled is left to have its turn."""
        self._borrowers: Final = {
            job_id for job_id in self.holders if not self.is_entitled(self.jobs[job_id])
        }
        """Jobs that hold a planned start and were not entitled when the cycle began, or when they got it."""

    def _lines(self) -> dict[str, Line]:
        """The queues by name; who holds a planned start stands alone."""
        alone: dict[str, dict[int, list[int]]] = {}
        for job_id in self.kept.by_job:
            queue = policy_queue(self.policy, self.jobs[job_id].queue)
            kind, place = self._index.place(job_id)
            insort(alone.setdefault(queue, {}).setdefault(id(kind.now), []), place)
        alike = self._index.alike
        return {queue: line_of(queue, alike[queue], alone.get(queue, {})) for queue in sorted(alike)}

    def is_entitled(self, job: PendingJob) -> bool:
        """Whether the job would be entitled if it started now, on any flavor it takes."""
        queue = policy_queue(self.policy, job.queue)
        return job.request.gpus <= self.entitled_left(queue, job.request.flavors)

    def entitled_left(self, queue: str, flavors: Iterable[str]) -> int:
        """GPUs of the largest job of the queue that would be entitled now, on any of these flavors."""
        known = [flavor for flavor in flavors if flavor in self.world.profiles]
        return max([self.world.shares_of(flavor).left_now(queue) for flavor in known], default=0)

    def is_full(self) -> bool:
        """Whether no more starts may be planned, by whom it is the turn of."""
        is_full = len(self.holders) >= self.policy.start_reservations
        return is_full or (self.is_surplus and self.is_surplus_full())

    def is_surplus_full(self) -> bool:
        """Whether jobs that are not entitled may plan no more starts: those that do keep them."""
        return len(self._borrowers & self.holders) >= self.policy.borrowed_reservations

    def take(self, job: PendingJob, line: Line, *, is_entitled: bool, is_planned: bool = False) -> None:
        """The job starts; else, if entitled, takes back; else plans its start; else it just waits."""
        own = self.world.release(job.id)
        found = self._fits(job)
        shield = self.shield_of(job, line)
        if isinstance(found, Fit) and shield is None:
            self.start(job, found, is_planned=is_planned)
            return
        if isinstance(found, Fit):
            found = NoFit(ReasonCode.WAITING_TURN, {})
        self.wait(job, found, is_entitled=is_entitled, shield=shield)
        if shield is not None and own is None:
            return
        is_shield = found.reason in ROOM_REASONS and (line.shield is job or self.may_shield(job, line))
        if is_shield:
            line.shield = job
        hold = self._take_back(job) if is_entitled and (own is None or not own.victims) else None
        is_owed = hold is not None and not hold.victims
        if is_owed or (hold is None and (own is not None or is_shield or self.may_reserve(job))):
            hold = self._replan(job, own, is_shield=is_shield)
        if hold is not None:
            self.plan_start(hold)
            is_other = own is not None and bool(own.victims) and own != hold
            if own is not None and is_other and not self.world.is_sound(own.flavor):
                self.world.release(job.id)  # other planned starts stand on what its victims would have freed
                self.plan_start(own)

    def shield_of(self, job: PendingJob, line: Line) -> PendingJob | None:
        """The aged job of the queue that the job must not overtake."""
        shield = line.shield
        if shield is None or shield is job or shield.submitted_ms >= job.submitted_ms:
            return None
        return shield

    def may_shield(self, job: PendingJob, line: Line) -> bool:
        """Whether the job is aged, and no earlier job shields the queue."""
        is_first = line.shield is None or job.submitted_ms < line.shield.submitted_ms
        return is_first and self.aging.is_aged(job, line.queue)

    def group(self, job: PendingJob) -> int:
        """Number of the job's queue, request and project."""
        return self._index.group(job.id)

    def _fits(self, job: PendingJob) -> Fit | NoFit:
        """`fits` with its refusals remembered while nothing changes: a flood of like jobs costs one answer."""
        key = self.group(job)
        known = self._refused.get(key)
        if known is not None and known[0] == self.world.version:
            return known[1]
        found = fits_eligible(job, self.world)
        if isinstance(found, NoFit):
            self._refused[key] = (self.world.version, found)
        return found

    def _take_back(self, job: PendingJob) -> Hold | None:
        """The start that is owed in place of borrowers; without victims where it comes by itself."""
        key = self.group(job)
        if self._unbought.get(key) == self.world.version:
            return None
        hold = reclaim(job, self.world) or self._take_back_sooner(job)
        if hold is None:
            self._unbought[key] = self.world.version
        return hold

    def _take_back_sooner(self, job: PendingJob) -> Hold | None:
        """The start that victims of later planned starts buy, where these stand all the same.

        They are not under notice yet, and go on borrowing until it is sent: whoever is entitled before need not wait.
        """
        later = [hold for hold in self.world.holds() if hold.victims and not hold.is_reclaim]
        if not later:
            return None
        version = self.world.version
        for hold in later:
            self.world.release(hold.job_id)
        found, kept = reclaim(job, self.world), 0
        if found is not None and found.victims:
            self.world.hold(found)
            kept = self._hold_again(later)
            self.world.release(found.job_id)
        if kept == len(later):
            return found
        for hold in later[:kept]:
            self.world.release(hold.job_id)
        for hold in later:
            self.world.hold(hold)
        self.world.version = version
        return None

    def _hold_again(self, holds: list[Hold]) -> int:
        """Put planned starts back on their nodes and at their instants; how many stand before one does not."""
        for count, hold in enumerate(holds):
            again = self.kept.in_place(hold)
            if again is None:
                return count
            self.world.hold(again)
        return len(holds)

    def _replan(self, job: PendingJob, own: Hold | None, *, is_shield: bool) -> Hold | None:
        """The start as planned before, unless an earlier one is found; at one instant plans do not change.

        An aged job that shields its queue plans one at which it is entitled, if it can, be it later: what is entitled
        in other queues takes the place of one at which it is not, as often as it comes. It starts sooner if it fits.
        """
        if own is not None:
            search = Search(job, own.flavor, self.world)
            kept = search.at(own.start_ms, only=own.picks)
            before = self.kept.by_job.get(job.id)
            if before is not None and before.planned_ms == self.world.at_ms:
                return kept or own
            if kept is not None and is_shield and kept.share_class is ShareClass.BORROWED:
                return earliest(job, self.world, as_entitled=True) or kept
            if kept is not None:
                if job.request.flavors == (own.flavor,) and not is_shield:
                    return search.earliest(until_ms=kept.start_ms - 1) or kept
                return earliest(job, self.world, until_ms=kept.start_ms - 1, as_entitled=is_shield) or kept
        lasting = earliest(job, self.world, as_entitled=True) if is_shield else None
        return lasting or earliest(job, self.world)

    def may_reserve(self, job: PendingJob) -> bool:
        """Whether the job may hold a planned start."""
        if job.id in self.holders:
            return True
        is_full = len(self.holders) >= self.policy.start_reservations
        return not is_full and (not self.is_surplus_full() or self.is_entitled(job))

    def reserves(self, job: PendingJob) -> None:
        """The job is among those that hold a planned start."""
        if job.id not in self.holders:
            self.holders.add(job.id)
            if not self.is_entitled(job):
                self._borrowers.add(job.id)

    def plan_start(self, hold: Hold) -> None:
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
            self.reserves(self.jobs[hold.job_id])
        self.world.hold(hold)

    def start(self, job: PendingJob, found: Fit, *, is_planned: bool = False) -> None:
        """The job starts now."""
        queue = policy_queue(self.policy, job.queue)
        self.world.start(job, found)
        rate = rate_of(self.policy, found.flavor)
        charge = entry_charge(job.request.gpus, self.policy.usage_sampling_s, rate)
        self.fair.charge(queue, charge)
        self.starts.append(Started(job, queue, found, charge, is_planned))
        self.decided.add(job.id)
        self.started.add(job.id)
        self.waits.pop(job.id, None)
        self.holders.discard(job.id)
        if found.share_class is ShareClass.BORROWED:
            self._give_way(found.flavor, self.world.at_ms + job.request.walltime_s * MS)

    def _give_way(self, flavor: str, end_ms: int) -> None:
        """Entitled planned starts that a start runs past take its GPUs back: those beside them stand on these."""
        passed = [
            hold
            for hold in self.world.profiles[flavor].holds.values()
            if hold.share_class is ShareClass.ENTITLED and not hold.is_reclaim and hold.start_ms < end_ms
        ]
        if not passed or self.world.is_sound(flavor):
            return
        for hold in passed:
            self.world.release(hold.job_id)
            self.world.hold(self.kept.in_place(hold) or hold)

    def wait(
        self,
        job: PendingJob,
        refusal: NoFit,
        *,
        is_entitled: bool = False,
        shield: PendingJob | None = None,
    ) -> None:
        """The job waits, and this is why."""
        self.decided.add(job.id)
        is_free = refusal.reason not in ROOM_REASONS or has_room(job.request, self.world)
        # With several flavors the refusal told is the nearest to a start: another may be a planned start's. And one
        # that is entitled may have taken nothing back for a planned start in its way.
        is_told = len(job.request.flavors) == 1 and not is_entitled
        by_planned = BY_PLANNED if is_told else ROOM_REASONS
        beside = self._held_now() if refusal.reason in by_planned else None
        self.waits[job.id] = Waits(job, refusal, is_entitled, shield, is_free=is_free, beside=beside)

    def _held_now(self) -> tuple[Stood, int]:
        """The planned starts that stand; one object for all that ask while none is released."""
        if self._stood.releases != self.world.releases:
            self._stood = Stood(self.world.releases)
        return self._stood, self._stood.follow(self.world.held)

    def wait_alike(self, job: PendingJob, waits: Waits) -> None:
        """The job waits for the same reason as one of its kind."""
        self.decided.add(job.id)
        self.waits[job.id] = replace(waits, job=job)
