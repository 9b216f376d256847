"""Fill-back over all victims of a cycle: who proved needless once every job had its turn runs on.

Source: the last pass of Kueue's classical preemption, over several reclaimers at once.
"""

from __future__ import annotations

from scheduler.fit import Fit, fits_eligible, has_room
from scheduler.model import AttemptId, JobId
from scheduler.profile import Hold
from scheduler.reserve import Search, earliest
from scheduler.turns import Turns


def start_reclaimers(turns: Turns) -> bool:
    """Start who took GPUs back in this cycle and can start now after all; whether anyone did."""
    starts = len(turns.starts)
    for job_id in dict.fromkeys(turns.reclaims):
        _start_now(turns, job_id)
    return len(turns.starts) > starts


def spare_needless(turns: Turns) -> bool:
    """Spare every victim of this cycle that no planned start needs, the most lost work first; whether any was.

    Starts stay when they were planned, some on other nodes. O(victims x planned starts).
    """
    world = turns.world
    victims = [
        (-world.profiles[hold.flavor].runs[victim].lost(world.at_ms), victim, hold.job_id)
        for hold in world.holds()
        if hold.is_reclaim
        for victim in hold.victims
    ]
    is_any = False
    for _, victim, job_id in sorted(victims):
        hold = world.held[job_id]
        if victim in hold.victims:
            is_any = _spare(turns, hold, victim) or is_any
    return is_any


def replan_unsound(turns: Turns) -> None:
    """Plan anew what was planned on GPUs that another was to take back, and did not after all.

    A reclaimer that finds room sooner starts, and its victims run on.
    """
    world = turns.world
    for hold in world.holds():
        if hold.is_reclaim or world.stands(hold):
            continue
        world.release(hold.job_id)
        found = earliest(turns.jobs[hold.job_id], world)
        if found is None:
            turns.holders.discard(hold.job_id)
        else:
            turns.plan_start(found)


def _start_now(turns: Turns, job_id: JobId) -> None:
    """Start a job whose victims are not needed: what was planned before it in its own queue moved meanwhile."""
    if not has_room(turns.jobs[job_id].request, turns.world):
        return
    hold = turns.world.release(job_id)
    if hold is None:
        return
    found = fits_eligible(turns.jobs[job_id], turns.world)
    if isinstance(found, Fit) and turns.world.is_sound(hold.flavor):
        turns.start(turns.jobs[job_id], found)
        return
    turns.world.hold(hold)
    for other in dict.fromkeys(turns.reclaims):
        if other in turns.world.held and _exchange(turns, hold, turns.world.held[other]):
            return


def _exchange(turns: Turns, hold: Hold, other: Hold) -> bool:
    """Start a job on what is free and kept for another, whom its victims make room for then; whether it did."""
    world, job = turns.world, turns.jobs[hold.job_id]
    is_in_time = other.is_reclaim and hold.start_ms <= other.start_ms and hold.flavor == other.flavor
    if hold is other or not is_in_time:
        return False
    world.release(hold.job_id)
    world.release(other.job_id)
    runs = world.profiles[hold.flavor].runs
    victims = [runs[victim] for victim in (*other.victims, *hold.victims)]
    found = None
    if all(run.queue != other.queue for run in victims):
        found = Search(turns.jobs[other.job_id], other.flavor, world).without(other, victims)
    if found is not None:
        world.hold(found)
        fit = fits_eligible(job, world)
        if isinstance(fit, Fit) and world.is_sound(hold.flavor):
            turns.start(job, fit)
            return True
        world.release(other.job_id)
    world.hold(other)
    world.hold(hold)
    return False


def _spare(turns: Turns, hold: Hold, victim: AttemptId) -> bool:
    """Plan the start without the victim if that leaves every planned start standing; whether it does."""
    world = turns.world
    world.release(hold.job_id)
    profile = world.profiles[hold.flavor]
    others = [profile.runs[other] for other in hold.victims if other != victim]
    search = Search(turns.jobs[hold.job_id], hold.flavor, world)
    without = search.without(hold, others)
    if without is not None:
        world.hold(without)
        if world.is_sound(hold.flavor):
            return True
        world.release(hold.job_id)
    world.hold(hold)
    return False
