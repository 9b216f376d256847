"""The one decisive reason of every job that waits, and who is ahead by which rule."""

from __future__ import annotations

from typing import Final

from quota.cohort import ancestors
from quota.policy import policy_queue
from scheduler.fit import Fit, NoFit, World, fits, is_free_to_start
from scheduler.index import Group
from scheduler.lines import Waits
from scheduler.model import AttemptId, PendingJob, ReasonCode, ShareClass, Wait
from scheduler.order import AGED, ENTITLED_FIRST, RESERVED, deciding_rule, in_order, siblings
from scheduler.place import Shape
from scheduler.turns import Started, Turns

_ROOM: Final = frozenset(
    {
        ReasonCode.QUEUE_LIMIT,
        ReasonCode.BORROWING_LIMIT,
        ReasonCode.NO_CAPACITY,
        ReasonCode.FRAGMENTED,
        ReasonCode.FRAGMENTED_BY_ENTITLED,
    }
)
"""Refusals behind which a start of this cycle may stand."""


class Reasons:
    """What is told to jobs that wait, once every turn is over.

    Args:
        turns: the cycle's turns.
    """

    def __init__(self, turns: Turns) -> None:
        self._turns: Final = turns
        self._before: World | None = None
        self._fits_alone: Final[dict[Group, Fit | None]] = {}
        self._refusals: Final[dict[Group, NoFit]] = {}
        self._takers: Final[dict[Shape, int]] = {}

    def of(self, job: PendingJob, waits: Waits) -> Wait:
        """The job's reason: whoever took the room in this cycle, where it is that, else the refusal itself."""
        refusal = self._shut_out(job) if waits.is_shut_out else waits.refusal
        if refusal.reason is ReasonCode.WAITING_TURN and waits.shield is not None:
            return Wait(job.id, refusal.reason, {"ahead": waits.shield.id, "rule": AGED})
        if refusal.reason in _ROOM and not waits.is_free:
            alone = self._alone(job)
            if alone is not None:
                number = self._taker(self._turns.bounds.shape(job.request, alone.flavor))
                ahead = self._turns.starts[number]
                rule = self._rule(ahead, number, job, waits)
                return Wait(job.id, ReasonCode.WAITING_TURN, {"ahead": ahead.job.id, "rule": rule})
        return Wait(job.id, refusal.reason, refusal.numbers)

    def _shut_out(self, job: PendingJob) -> NoFit:
        """Why a job that found no room cannot start, as the cycle ended."""
        key = (job.queue, job.request, job.project_id)
        is_like_others = is_free_to_start(job, self._turns.world.at_ms)
        if is_like_others and key in self._refusals:
            return self._refusals[key]
        found = fits(job, self._turns.world)
        refusal = found if isinstance(found, NoFit) else NoFit(ReasonCode.NO_CAPACITY)
        if is_like_others:  # what keeps this one back keeps none of its kind
            self._refusals[key] = refusal
        return refusal

    def _alone(self, job: PendingJob) -> Fit | None:
        """Where the job would fit beside the running jobs alone."""
        key = (job.queue, job.request, job.project_id)
        if key not in self._fits_alone:
            if self._before is None:
                self._before = World(self._turns.snapshot, self._turns.bounds)
            found = fits(job, self._before)
            self._fits_alone[key] = found if isinstance(found, Fit) else None
        return self._fits_alone[key]

    def _taker(self, shape: Shape) -> int:
        """Number of the start after which a shape that fitted before it fits no more. O(log starts) placements."""
        if shape not in self._takers:
            low, high = 0, len(self._turns.starts) - 1
            while low < high:
                middle = (low + high) // 2
                low, high = (middle + 1, high) if self._has_room_after(shape, middle) else (low, middle)
            self._takers[shape] = low
        return self._takers[shape]

    def _has_room_after(self, shape: Shape, number: int) -> bool:
        """Whether the shape still fits after the starts up to this one."""
        rooms = self._turns.world.free.of_flavor(shape.flavor)
        free = rooms.free.copy()
        later = [start for start in self._turns.starts[number + 1 :] if start.fit.flavor == shape.flavor]
        for start in later:
            for slot in start.fit.slots:
                free[rooms.index[slot.node]] += len(slot.gpu_uuids)
        gone = {AttemptId(f"{start.job.id}-{start.job.attempts + 1}") for start in later}
        return rooms.pick(self._turns.world.with_beside_now(free, shape, gone), shape) is not None

    def _rule(self, ahead: Started, number: int, job: PendingJob, waits: Waits) -> str:
        """By which rule a start went before a job that waits."""
        turns = self._turns
        queue = policy_queue(turns.policy, job.queue)
        if ahead.is_planned:
            return RESERVED
        if ahead.queue == queue and in_order([ahead.job, job], turns.aging, queue)[0] is ahead.job:
            return deciding_rule(ahead.job, job, turns.aging, queue)
        is_entitled = ahead.fit.share_class is ShareClass.ENTITLED
        if ahead.queue == queue or (is_entitled and not waits.is_entitled):
            return ENTITLED_FIRST
        mine, other = siblings(ahead.queue, queue)
        since = turns.starts[number:]
        return turns.fair.rule(
            ahead.queue,
            queue,
            less_ahead=sum(start.charge for start in since if mine in ancestors(start.queue)),
            less_behind=sum(start.charge for start in since if other in ancestors(start.queue)),
        )
