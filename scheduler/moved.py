"""Why a planned start comes later than it was planned, or is planned no more: one cause each. Pure.

Told apart by asking again with the jobs alone that held planned starts: where the start would stand then, other
waiting jobs took its place, and only entitled ones may; where it would not, the world changed under it.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import Final

from quota.policy import policy_queue
from scheduler.causes import MoveCause
from scheduler.fit import MS, not_eligible
from scheduler.model import (
    JobId,
    JobState,
    LiveAttempt,
    Moved,
    NodeState,
    PendingJob,
    ReasonCode,
    Reservation,
    ShareClass,
    Snapshot,
)
from scheduler.profile import Hold
from scheduler.turns import Turns

_BY_OPERATOR: Final = frozenset({ReasonCode.PAUSED, ReasonCode.PROJECT_SUSPENDED})


def moved(turns: Turns) -> tuple[Moved, ...]:
    """Planned starts that a cycle put off or took away, by job, each with its cause.

    Nothing is done where none moved; else one more pass over the jobs that held planned starts.
    """
    kept = [standing for standing in turns.snapshot.reservations if _is_later(standing, turns)]
    if not kept:
        return ()
    facts = _Facts(turns)
    return tuple(
        Moved(one.job_id, _later_ms(one, turns.world.held.get(one.job_id)), _cause(one, turns, facts))
        for one in sorted(kept, key=lambda one: one.job_id)
    )


class _Facts:
    """What is asked of the cycle for every planned start that moved, worked out once: thousands may move together."""

    def __init__(self, turns: Turns) -> None:
        snapshot = turns.snapshot
        self.alone: Final = _alone(turns)
        self.states: Final = {node.name: node.state for node in snapshot.nodes}
        self.drained: Final = {node.name for node in snapshot.nodes if not node.is_in_service}
        self.capacity: Final = sum(snapshot.capacity.values())
        self.is_missed: Final = any(kept.start_ms < snapshot.at_ms for kept in snapshot.reservations)
        self._turns: Final = turns
        self._pools: Final[dict[str, MoveCause]] = {}

    def of_pool(self, flavor: str) -> MoveCause:
        """What changed by what runs on nodes of the flavor."""
        if flavor not in self._pools:
            self._pools[flavor] = _of_pool(flavor, self._turns.snapshot)
        return self._pools[flavor]

    @cached_property
    def expedited(self) -> frozenset[JobId]:
        """Expedited jobs that hold a planned start."""
        jobs = self._turns.jobs
        return frozenset(
            job_id for job_id in self._turns.world.held if job_id in jobs and jobs[job_id].is_expedited
        )

    @cached_property
    def expedited_nodes(self) -> frozenset[str]:
        """Nodes on which expedited jobs started."""
        starts = [start for start in self._turns.starts if start.job.is_expedited]
        return frozenset(slot.node for start in starts for slot in start.fit.slots)

    @cached_property
    def entitled_nodes(self) -> frozenset[str]:
        """Nodes on which entitled jobs started."""
        starts = [start for start in self._turns.starts if start.fit.share_class is ShareClass.ENTITLED]
        return frozenset(slot.node for start in starts for slot in start.fit.slots)

    @cached_property
    def entitled(self) -> list[tuple[set[str], Hold]]:
        """Nodes of each planned start that is entitled."""
        rooms = self._turns.world.free
        return [
            ({node for node, _ in rooms.of_flavor(hold.flavor).named(hold.picks)}, hold)
            for hold in self._turns.world.holds()
            if hold.share_class is ShareClass.ENTITLED
        ]


def _is_later(kept: Reservation, turns: Turns) -> bool:
    """Whether the job waits still, and its start does not stand where it was or sooner."""
    if kept.job_id not in turns.jobs or kept.job_id in turns.started:
        return False
    hold = turns.world.held.get(kept.job_id)
    return hold is None or hold.start_ms > kept.start_ms


def _later_ms(kept: Reservation, hold: Hold | None) -> int | None:
    return None if hold is None else hold.start_ms - kept.start_ms


def _alone(turns: Turns) -> Turns:
    """The cycle as it would be if nobody waited but those who held planned starts."""
    holders = {kept.job_id for kept in turns.snapshot.reservations}
    pending = tuple(job for job in turns.snapshot.pending if job.id in holders)
    alone = Turns(replace(turns.snapshot, pending=pending), turns.policy)
    alone.keep_reclaims()
    alone.planned()
    return alone


def _cause(kept: Reservation, turns: Turns, facts: _Facts) -> MoveCause:
    """The first that applies."""
    job = turns.jobs[kept.job_id]
    refusal = not_eligible(job, turns.world)
    if kept.policy_version not in {"", turns.policy.version}:
        return MoveCause.POLICY_CHANGED
    if refusal is not None and refusal.reason is not ReasonCode.NEVER_FITS:
        return MoveCause.OPERATOR_ACT if refusal.reason in _BY_OPERATOR else MoveCause.NOT_ELIGIBLE
    waits, hold = turns.waits.get(job.id), facts.alone.world.held.get(job.id)
    if waits is not None and waits.shield is not None:
        return MoveCause.AGED
    if _is_aged_itself(kept, job, turns):
        return MoveCause.AGED
    if job.id in facts.alone.started or (hold is not None and hold.start_ms <= kept.start_ms):
        return _of_others(kept, facts)
    found = _of_world(kept, job, turns.snapshot, facts)
    is_taken = found is MoveCause.REPLANNED and _is_taken(kept, facts)
    return MoveCause.ENTITLED_WORK if is_taken else found


def _is_aged_itself(kept: Reservation, job: PendingJob, turns: Turns) -> bool:
    """Whether the job gave a start as borrowed work up for one at which it is entitled, as nobody may overtake it."""
    hold = turns.world.held.get(job.id)
    is_other = hold is not None and (kept.share_class, hold.share_class) == (
        ShareClass.BORROWED,
        ShareClass.ENTITLED,
    )
    return is_other and turns.aging.is_aged(job, policy_queue(turns.policy, job.queue))


def _is_taken(kept: Reservation, facts: _Facts) -> bool:
    """Whether entitled work that held a planned start itself stands on the place now."""
    nodes = {node for node, _ in kept.place}
    return bool(nodes & facts.entitled_nodes) or any(
        hold.start_ms <= kept.start_ms < hold.end_ms and hold.job_id != kept.job_id and nodes & others
        for others, hold in facts.entitled
    )


def _of_others(kept: Reservation, facts: _Facts) -> MoveCause:
    """A start that other waiting jobs put off: by their right, or because an operator put one first."""
    nodes = {node for node, _ in kept.place}
    is_expedited = bool(facts.expedited - {kept.job_id}) or bool(nodes & facts.expedited_nodes)
    return MoveCause.OPERATOR_ACT if is_expedited else MoveCause.ENTITLED_WORK


def _of_world(kept: Reservation, job: PendingJob, snapshot: Snapshot, facts: _Facts) -> MoveCause:
    """What changed under a planned start."""
    of_nodes = _of_nodes(kept, facts)
    if of_nodes is not None:
        return of_nodes
    nodes = {node for node, _ in kept.place}
    ends_ms = kept.start_ms + job.request.walltime_s * MS
    if any(
        window.nodes & nodes
        and job.project_id not in window.projects
        and window.from_ms < ends_ms
        and window.to_ms > kept.start_ms
        for window in snapshot.windows
    ):
        return MoveCause.WINDOW
    return MoveCause.OVERDUE if facts.is_missed else facts.of_pool(kept.flavor)


def _of_nodes(kept: Reservation, facts: _Facts) -> MoveCause | None:
    """Whether the nodes of the place, or the GPUs in service that quotas are shares of, are not what they were."""
    place = {facts.states.get(node) for node, _ in kept.place}
    if any(node in facts.drained for node, _ in kept.place):
        return MoveCause.OPERATOR_ACT
    if place != {NodeState.UP}:
        return MoveCause.NODE_LOST
    if kept.capacity_gpus is not None and facts.capacity < kept.capacity_gpus:
        return MoveCause.OPERATOR_ACT if facts.drained else MoveCause.NODE_LOST
    return None


def _of_pool(flavor: str, snapshot: Snapshot) -> MoveCause:
    """What changed by what runs on nodes of the flavor."""
    of_flavor = {node.name for node in snapshot.nodes if node.flavor == flavor}
    running = [attempt for attempt in snapshot.live if attempt.slots[0].node in of_flavor]
    if any(_is_overdue(attempt, snapshot.at_ms) for attempt in running):
        return MoveCause.OVERDUE
    is_pinned = any(attempt.is_protected for attempt in running)
    return MoveCause.OPERATOR_ACT if is_pinned else MoveCause.REPLANNED


def _is_overdue(attempt: LiveAttempt, at_ms: int) -> bool:
    """Whether its end is not what could be planned with: not begun yet, or not over when it was to be."""
    if attempt.committed_ms is None or attempt.is_stopping or attempt.state is JobState.COMPLETING:
        return True
    ends_ms = attempt.committed_ms + attempt.request.walltime_s * MS
    return min(ends_ms, ends_ms if attempt.stop_ms is None else attempt.stop_ms) <= at_ms
