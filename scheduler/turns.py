"""The turns of one cycle: every waiting job starts, or takes back, or plans its start, and gets its reason."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final, cast

from quota.fairshare import entry_charge
from quota.model import Policy
from quota.policy import policy_queue
from quota.tree import WHOLE
from scheduler.fit import Fit, NoFit, World, fits_eligible, has_room, is_free_to_start, not_eligible
from scheduler.index import Index
from scheduler.lines import Line, Told, Waits, Walk, line_of
from scheduler.model import JobId, PendingJob, ReasonCode, Reservation, ShareClass, Snapshot
from scheduler.order import Aging, FairShare, Key
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
NO_ROOM: Final = frozenset({ReasonCode.NO_CAPACITY, ReasonCode.FRAGMENTED})
"""Refusals that last for the cycle: what is free only shrinks."""


@dataclass(frozen=True, slots=True)
class Started:
    """A start of this cycle. `rule` says how its turn came; `charge` is what it added to its queue's use."""

    job: PendingJob
    queue: str
    fit: Fit
    charge: int
    is_planned: bool = False


class Turns:
    """Working state of one cycle; see `scheduler.plan.make_plan` for its steps.

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
        tree = self.bounds.trees.get(WHOLE, NO_LIMITS)
        self.aging: Final = Aging(snapshot.at_ms, policy.aging_full_after_s, tree.nominal)
        self._index.follow(snapshot, policy, self.aging)
        self.jobs: Final = self._index.jobs
        priorities = {node.path: node.priority for node in policy.tree}
        self.fair: Final = FairShare(tree, snapshot.usage, priorities)
        self.standing: Final = {
            kept.job_id: kept
            for kept in snapshot.reservations
            if kept.job_id in self.jobs and not_eligible(self.jobs[kept.job_id], self.world) is None
        }
        lines = self._lines()
        self.lines: Final = {queue: line for queue, line in lines.items() if queue in self.bounds.queues}
        self.strays: Final = [line for queue, line in lines.items() if queue not in self.bounds.queues]
        self.holders: Final = {job_id for job_id, kept in self.standing.items() if not kept.is_reclaim}
        self.starts: Final[list[Started]] = []
        self.waits: Final[dict[JobId, Waits]] = {}
        self.started: Final[set[JobId]] = set()
        self.decided: Final[set[JobId]] = set()
        self.reclaims: Final[list[JobId]] = []
        self._refused: Final[dict[int, tuple[int, NoFit]]] = {}
        self._roomless: Final[set[object]] = set()
        self._eligible: Final[dict[int, int]] = {}
        self._unbought: Final[dict[int, int]] = {}

    def _lines(self) -> dict[str, Line]:
        """The queues by name; who holds a planned start stands alone."""
        alone: dict[int, list[int]] = {}
        for job_id in self.standing:
            kind, place = self._index.place(job_id)
            alone.setdefault(id(kind), []).append(place)
        queues = self._index.queues
        return {queue: line_of(queue, queues[queue].values(), alone) for queue in sorted(queues)}

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
                self.start(job, found, is_planned=True)
                return
        self.world.hold(hold)
        self._wait(job, NoFit(ReasonCode.RECLAIMING, {"gpus": hold.gpus, "until_ms": hold.start_ms}))

    # Step 1: entitled work of all queues.

    def entitled(self) -> None:
        """Jobs that are entitled now, queue by queue as fair share says, each queue in its own order."""
        for line in self.strays:
            line.begin()
            while (walk := self._head(line)) is not None:
                self._is_refused(walk, line)  # the policy has no such queue
        for line in self.lines.values():
            self._pass_at_once(line)
            line.begin()
        waiting = {queue for queue, line in self.lines.items() if self._has_entitled(line)}
        while waiting:
            line = self.lines[self.fair.next_of(waiting)]
            starts = len(self.starts)
            while len(self.starts) == starts and self._has_entitled(line):
                self._entitled_turn(line)
            if not self._has_entitled(line):
                waiting.discard(line.queue)

    def _pass_at_once(self, line: Line) -> None:
        """Kinds that are not entitled are passed as a whole where none of their jobs can shield the queue."""
        known: dict[tuple[int, tuple[str, ...]], bool] = {}
        for walk in line.walks:
            request = walk.job.request
            size = (request.gpus, request.flavors)
            if size not in known:
                known[size] = self.is_entitled(walk.job)
            if not known[size] and walk.is_plain:
                walk.passed = 0

    def _head(self, line: Line) -> Walk | None:
        """The walk whose next job's turn it is; jobs that were decided before are left out."""
        while True:
            walk = line.head(self.world.version, is_full=self._is_full())
            if walk is None or walk.job.id not in self.decided:
                return walk
            line.advance()

    def _is_full(self) -> bool:
        """Whether no more starts may be planned."""
        return len(self.holders) >= self.policy.start_reservations

    def _has_entitled(self, line: Line) -> bool:
        """Walk the line up to its next job that is entitled now; what is not is passed.

        Starts only add to what a queue is charged: a kind that is not entitled stays so for the cycle.
        """
        while (walk := self._head(line)) is not None:
            job = walk.job
            is_entitled = self.is_entitled(job)
            is_aged = self.aging.is_aged(job, line.queue)
            may_shield = line.shield is None and is_aged
            if (is_entitled or may_shield) and self._is_refused(walk, line):
                continue
            if is_entitled:
                return True
            walk.passed = min(walk.passed, walk.next)
            if may_shield:
                line.shield = job
            if job.is_expedited and not is_aged:
                line.advance()  # an aged one may stand behind it, and is to shield the queue at its place
            else:
                line.leave()
        return False

    def _is_refused(self, walk: Walk, line: Line) -> bool:
        """Whether nothing that others do can start the head; then that is the reason of all its kind."""
        job, version = walk.job, self.world.version
        if self._eligible.get(walk.group) == version and is_free_to_start(job, self.world.at_ms):
            return False  # a like job was asked for, and nothing has started since
        refusal = not_eligible(job, self.world)
        if refusal is not None:
            self._wait(job, refusal)
            line.finish(self.waits[job.id])
            return True
        self._eligible[walk.group] = version
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
        walk = cast("Walk", self._head(line))
        before = self.world.version
        self._plan_ahead(line, walk.keys[walk.next])
        planned = self.world.version
        self._turn(walk.job, line, is_entitled=True)
        is_same = self.world.version == planned
        for passed in line.ahead:
            self.world.release(passed)
        if is_same:
            self.world.version = before
        self._move_on(walk, line, before if self._is_full() else None)

    def _move_on(self, walk: Walk, line: Line, version: int | None) -> None:
        """The head had its turn; if nothing came of it, its kind sleeps until something changes.

        Args:
            walk: the head's.
            line: its queue.
            version: of the world before its turn; None when the next of its kind may fare otherwise.
        """
        waits, following = self.waits.get(walk.job.id), walk.following
        if waits is None or following is None or version != self.world.version:
            line.advance()
            return
        shield = self._shield(following, line)
        is_next_shield = line.shield is None and self.aging.is_aged(following, line.queue)
        if shield is not waits.shield or is_next_shield or walk.keys[walk.next] < line.last_ahead:
            line.advance()
            return
        is_shut_out = (
            waits.refusal.reason in NO_ROOM
            and len(following.request.flavors) == 1
            and not waits.is_entitled
            and waits.shield is None
        )
        line.sleep(waits, is_sound=is_shut_out and self._is_full())

    def _plan_ahead(self, line: Line, key: Key) -> None:
        """Plan the starts of the queue's passed jobs, as far as they may hold one; only the queue sees them."""
        for job_id, before in list(line.ahead.items()):
            search = Search(self.jobs[job_id], before.flavor, self.world)
            self._hold_ahead(line, self.jobs[job_id], search.at(before.start_ms, only=before.picks))
        for place, job in line.passed_before(key, is_full=self._is_full()):
            may_plan = job.id not in self.world.held and self._may_reserve(job)
            if may_plan and not_eligible(job, self.world) is None:
                self.holders.add(job.id)
                line.last_ahead = place
                if job.id in self.standing:
                    self._restore(self.standing[job.id])
                self._hold_ahead(line, job, self.world.release(job.id))
        line.seen = key

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
            refusal = not_eligible(job, self.world)
            if refusal is not None:
                self._wait(job, refusal)
            elif line is not None:
                self._turn(job, line, is_entitled=False, is_planned=True)

    def borrowed(self) -> None:
        """All other jobs, queue by queue as fair share says."""
        waiting = {queue for queue, line in self.lines.items() if line.begin_passed(self._is_shut_out)}
        while waiting:
            line = self.lines[self.fair.next_of(waiting)]
            if not self._borrowed_turns(line):
                waiting.discard(line.queue)

    def _borrowed_turns(self, line: Line) -> bool:
        """Turns of a queue until one of its jobs starts; whether one did."""
        starts = len(self.starts)
        while len(self.starts) == starts and (walk := self._head(line)) is not None:
            if not self._is_refused(walk, line):
                version = self.world.version
                self._turn(walk.job, line, is_entitled=False)
                self._move_on(walk, line, version)
        return len(self.starts) > starts

    def _is_shut_out(self, walk: Walk) -> bool:
        """Whether none of the walk's jobs can start, plan a start, or shield the queue.

        What is free only shrinks: where there is no room now, there will be none in this cycle.
        """
        job = walk.job
        if not walk.is_plain or job.id in self.holders or job.id in self.world.held or not self._is_full():
            return False
        shape = (job.request.flavors, job.request.gpus, job.request.nodes)
        if shape not in self._roomless and not has_room(job.request, self.world):
            self._roomless.add(shape)
        return shape in self._roomless

    # Step 3: what was kept for a job that then went elsewhere is there for those it kept waiting.

    def second_turns(self) -> None:
        """Jobs that waited for a planned start that moved, or for an aged job that started, get another turn."""
        starts = -1
        while len(self.starts) > starts:
            starts = len(self.starts)
            self._drop_void()
            for line in self.lines.values():
                for walk in line.walks:
                    self._untell(walk)
            for waits in list(self.waits.values()):
                if waits.job.id in self.waits and self._is_freed(waits):
                    self._second_turn(waits.job)

    def _drop_void(self) -> None:
        """Planned starts of jobs that others' starts left without budget or a place in their array stand no more.

        But for those that attempts were given notice for in an earlier cycle.
        """
        for hold in self.world.holds():
            if hold.is_reclaim and hold.job_id not in self.reclaims:
                continue
            refusal = not_eligible(self.jobs[hold.job_id], self.world)
            if refusal is not None:
                self.world.release(hold.job_id)
                self.holders.discard(hold.job_id)
                self._wait(self.jobs[hold.job_id], refusal)

    def _untell(self, walk: Walk) -> None:
        """Jobs that were told the same, and that a second turn may help, are told one by one from here on."""
        kept: list[Told] = []
        for told in walk.told:
            if self._is_freed(told.waits):
                for job in walk.jobs[told.begin : told.end]:
                    self.waits.setdefault(job.id, replace(told.waits, job=job))
            else:
                kept.append(told)
        walk.told[:] = kept

    def _second_turn(self, job: PendingJob) -> None:
        """One more turn."""
        line = self.lines[policy_queue(self.policy, job.queue)]
        if line.shield is not None and line.shield.id in self.started:
            line.shield = None
        self._turn(job, line, is_entitled=self.is_entitled(job))

    def _is_freed(self, waits: Waits) -> bool:
        """Whether what kept the job from starting is there no more."""
        if waits.shield is not None:
            return waits.shield.id in self.started
        if waits.refusal.reason is not ReasonCode.RESERVED_FOR or "window" in waits.refusal.numbers:
            return False
        ahead = self.world.held.get(JobId(int(waits.refusal.numbers["job"])))
        return ahead is None or ahead.start_ms != waits.refusal.numbers["start_ms"]

    def waiting(self) -> Iterator[tuple[PendingJob, Waits]]:
        """Every job that does not start now, with what kept it."""
        for waits in self.waits.values():
            yield waits.job, waits
        for line in (*self.lines.values(), *self.strays):
            for walk in line.walks:
                for told in walk.told:
                    for job in walk.jobs[told.begin : told.end]:
                        if job.id not in self.waits and job.id not in self.started:
                            yield job, told.waits

    # A job's turn.

    def _turn(self, job: PendingJob, line: Line, *, is_entitled: bool, is_planned: bool = False) -> None:
        """The job starts; else, if entitled, takes back; else plans its start; else it just waits."""
        own = self.world.release(job.id)
        found = self._fits(job)
        shield = self._shield(job, line)
        if isinstance(found, Fit) and shield is None:
            self.start(job, found, is_planned=is_planned)
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
        is_owed = hold is not None and not hold.victims
        if is_owed or (hold is None and (own is not None or is_shield or self._may_reserve(job))):
            hold = self._replan(job, own)
        if hold is not None:
            self._plan(hold)

    def _shield(self, job: PendingJob, line: Line) -> PendingJob | None:
        """The aged job of the queue that the job must not overtake."""
        shield = line.shield
        if shield is None or shield is job or shield.submitted_ms >= job.submitted_ms:
            return None
        return shield

    def _group(self, job: PendingJob) -> int:
        kind, _ = self._index.place(job.id)
        return kind.group

    def _fits(self, job: PendingJob) -> Fit | NoFit:
        """`fits` with its refusals remembered while nothing changes: a flood of like jobs costs one answer."""
        key = self._group(job)
        known = self._refused.get(key)
        if known is not None and known[0] == self.world.version:
            return known[1]
        found = fits_eligible(job, self.world)
        if isinstance(found, NoFit):
            self._refused[key] = (self.world.version, found)
        return found

    def _take_back(self, job: PendingJob) -> Hold | None:
        """The start that is owed in place of borrowers; without victims where it comes by itself."""
        key = self._group(job)
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
        return job.id in self.holders or not self._is_full()

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

    def start(self, job: PendingJob, found: Fit, *, is_planned: bool = False) -> None:
        """The job starts now."""
        queue = policy_queue(self.policy, job.queue)
        self.world.start(job, found)
        charge = entry_charge(job.request.gpus, self.policy.usage_sampling_s)
        self.fair.charge(queue, charge)
        self.starts.append(Started(job, queue, found, charge, is_planned))
        self.decided.add(job.id)
        self.started.add(job.id)
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
