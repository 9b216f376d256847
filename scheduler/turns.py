"""The steps of one cycle: in which order the waiting jobs get their turns."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, cast

from quota.model import Policy
from quota.policy import policy_queue
from scheduler.fit import Fit, NoFit, fits_eligible, has_room, is_free_to_start, not_eligible
from scheduler.index import Asked, Index
from scheduler.lines import Line, Waits, Walk, shut_out
from scheduler.model import PendingJob, ReasonCode, Snapshot
from scheduler.order import Key
from scheduler.profile import Hold
from scheduler.reserve import earliest
from scheduler.turn import Started, Turn

__all__ = ["Started", "Turns"]

NO_ROOM: Final = frozenset({ReasonCode.NO_CAPACITY, ReasonCode.FRAGMENTED})
"""Refusals that last for the cycle: what is free only shrinks."""


class Turns(Turn):
    """Every waiting job's turn; see `scheduler.plan.make_plan` for the steps.

    Args:
        snapshot: what the cycle plans from.
        policy: the policy in force.
        index: the waiting jobs as the last cycle left them; None = made anew.
    """

    def __init__(self, snapshot: Snapshot, policy: Policy, index: Index | None = None) -> None:
        super().__init__(snapshot, policy, index)
        self._roomless: Final[set[Asked]] = set()
        self._roomy: Final[dict[Asked, int]] = {}
        self._eligible: Final[dict[int, int]] = {}

    # Step 0: what victims make room for is out of everyone's reach.

    def keep_reclaims(self) -> None:
        """Starts that attempts were given notice for stand first; those whose GPUs are free begin."""
        fixed = [
            kept for kept in self.kept.in_order() if kept.is_reclaim or kept.planned_ms == self.world.at_ms
        ]
        self.kept.restore_all(fixed)
        reclaims = [kept for kept in fixed if kept.is_reclaim]
        noticed = {attempt.reclaimed_by for attempt in self.snapshot.live} if reclaims else set()
        for kept in reclaims:
            self._decide_fixed(self.jobs[kept.job_id], has_victims=kept.job_id in noticed)

    def _decide_fixed(self, job: PendingJob, *, has_victims: bool) -> None:
        """A job that GPUs were taken back for starts on exactly these, and nowhere else.

        Not while its victims run: GPUs of its place that are free before may be another's until its start.
        """
        hold = self.world.release(job.id)
        if hold is None:
            self.kept.by_job.pop(job.id)  # its nodes are gone: it looks for others at its turn
            return
        rooms = self.world.free.of_flavor(hold.flavor)
        if not has_victims and all(rooms.free[node] >= gpus for node, gpus in hold.picks):
            slots = self.world.free.slots(rooms.named(hold.picks))
            found = fits_eligible(job, self.world, slots=slots)
            if isinstance(found, Fit):
                self.start(job, found, is_planned=True)
                return
        self.world.hold(hold)
        self.wait(job, NoFit(ReasonCode.RECLAIMING, {"gpus": hold.gpus, "until_ms": hold.start_ms}))
        line = self.lines.get(hold.queue)
        if line is not None and self.may_shield(job, line):
            line.shield = job

    # Step 1: entitled work of all queues.

    def entitled(self) -> None:
        """Jobs that are entitled now, queue by queue as fair share says, each queue in its own order."""
        for line in self.strays:
            line.pass_at_once(lambda _: False)
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
        left: dict[tuple[str, ...], int] = {}

        def is_passed(shape: Asked) -> bool:
            flavors = shape.request.flavors
            if flavors not in left:
                left[flavors] = self.entitled_left(line.queue, flavors)
            return shape.request.gpus > left[flavors]

        line.pass_at_once(is_passed)

    def _head(self, line: Line) -> Walk | None:
        """The walk whose next job's turn it is; jobs that were decided before are left out."""
        while True:
            walk = line.head(self.world.version, is_full=self.is_full())
            if walk is None or walk.job.id not in self.decided:
                return walk
            line.advance()

    def _has_entitled(self, line: Line) -> bool:
        """Walk the line up to its next job that is entitled now; what is not is passed.

        Starts only add to what a queue is charged: a kind that is not entitled stays so for the cycle.
        """
        while (walk := self._head(line)) is not None:
            job = walk.job
            is_entitled = self.is_entitled(job)
            is_aged = self.aging.is_aged(job, line.queue)
            may_shield = self.may_shield(job, line)
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
        job = walk.job
        claims = self.world.claims(job.project_id)
        if self._eligible.get(walk.group) == claims and is_free_to_start(job, self.world.at_ms):
            return False  # a like job was asked for, and nothing more is claimed of their project's grants
        refusal = not_eligible(job, self.world)
        if refusal is not None:
            self.wait(job, refusal)
            line.finish(self.waits[job.id])
            return True
        self._eligible[walk.group] = claims
        return False

    def _entitled_turn(self, line: Line) -> None:
        """The next entitled job of a queue, considered against what stands before it in its own queue."""
        walk = cast("Walk", self._head(line))
        before = self.world.version
        self._plan_ahead(line, walk.keys[walk.next])
        planned = self.world.version
        self.take(walk.job, line, is_entitled=True)
        is_same = self.world.version == planned
        for passed in line.ahead:
            self.world.release(passed)
        if is_same:
            self.world.version = before
        self._move_on(walk, line, before if self.is_full() else None)

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
        shield = self.shield_of(following, line)
        is_next_shield = self.may_shield(following, line)
        if shield is not waits.shield or is_next_shield or walk.keys[walk.next] < line.last_ahead:
            line.advance()
            return
        is_shut_out = (
            waits.refusal.reason in NO_ROOM
            and len(following.request.flavors) == 1
            and not waits.is_entitled
            and waits.shield is None
        )
        line.sleep(waits, is_sound=is_shut_out and self.is_full())

    def _plan_ahead(self, line: Line, key: Key) -> None:
        """Plan the starts of the queue's passed jobs, as far as they may hold one; only the queue sees them."""
        for job_id, before in list(line.ahead.items()):
            self._hold_ahead(line, self.jobs[job_id], self.kept.in_place(before))
        is_full = self.is_full() or self.is_surplus_full()  # what was passed is not entitled
        for place, job in line.passed_before(key, is_full=is_full):
            may_plan = job.id not in self.world.held and self.may_reserve(job)
            if may_plan and not_eligible(job, self.world) is None:
                self.reserves(job)
                line.last_ahead = place
                if job.id in self.kept.by_job:
                    self.kept.restore(self.kept.by_job[job.id])
                self._hold_ahead(line, job, self.world.release(job.id))
        line.seen = key

    def _hold_ahead(self, line: Line, job: PendingJob, before: Hold | None) -> None:
        """The planned start of a passed job as it was, or anew where others took its place."""
        hold = before or self._earliest_beside_all(job)
        line.ahead.pop(job.id, None)
        if hold is not None:
            self.world.hold(hold)
            line.ahead[job.id] = hold

    def _earliest_beside_all(self, job: PendingJob) -> Hold | None:
        """The earliest start beside every planned start that stands: who is not entitled puts none of them off."""
        standing = [
            kept
            for kept in self.kept.in_order()
            if kept.job_id != job.id
            and kept.job_id not in self.decided
            and kept.job_id not in self.world.held
        ]
        self.kept.restore_all(standing)
        hold = earliest(job, self.world)
        self.kept.release_all(standing)
        return hold

    # Step 2: planned starts go before work that is not entitled now; then everyone else.

    def planned(self) -> None:
        """Starts that stand from before, in the order of their instants."""
        self.is_surplus = True
        left = [kept for kept in self.kept.in_order() if kept.job_id not in self.decided]
        self.kept.restore_all([kept for kept in left if kept.job_id not in self.world.held])
        for kept in left:
            job = self.jobs[kept.job_id]
            line = self.lines.get(policy_queue(self.policy, job.queue))
            refusal = not_eligible(job, self.world)
            if refusal is not None:
                self.wait(job, refusal)
            elif line is not None:
                self.take(job, line, is_entitled=False, is_planned=True)

    def borrowed(self) -> None:
        """All other jobs, queue by queue as fair share says."""
        waiting = {
            queue
            for queue, line in self.lines.items()
            if line.begin_passed(self._is_shut_out, self._is_bound)
        }
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
                self.take(walk.job, line, is_entitled=False)
                self._move_on(walk, line, version)
        return len(self.starts) > starts

    def _is_shut_out(self, shape: Asked) -> bool:
        """Whether jobs that ask for this can neither start nor plan a start.

        What is free only shrinks: where there is no room now, there will be none in this cycle.
        """
        if not self.is_full():
            return False
        if self._roomy.get(shape) != self.world.version and shape not in self._roomless:
            if has_room(shape.request, self.world):
                self._roomy[shape] = self.world.version
            else:
                self._roomless.add(shape)
        return shape in self._roomless

    def _is_bound(self, walk: Walk) -> bool:
        """Whether the next job has a planned start or may have one."""
        return walk.job.id in self.holders or walk.job.id in self.world.held

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
            for kind in line.shut_out:
                waits = shut_out(kind.jobs[0])
                for job in kind.jobs:
                    yield job, waits
