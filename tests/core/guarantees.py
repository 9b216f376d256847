"""What the scheduler owes, said again by `fit` alone: who is denied by a borrower, overtaken, or put off."""

from __future__ import annotations

from dataclasses import replace

from quota.policy import policy_queue
from quota.tree import WHOLE
from scheduler.fit import Bounds, Fit, World, fits_eligible, not_eligible
from scheduler.model import Admit, Preempt, ReasonCode, Reserve, ShareClass, Wait
from scheduler.order import Aging
from scheduler.profile import Hold

MS = 1_000
LOST = {ReasonCode.ARRAY_CAP, ReasonCode.BUDGET_EXHAUSTED}
"""What a start of the same cycle may take from a job beside GPUs."""


def world_of(snapshot, policy, without=()):
    """The world of a snapshot without some attempts."""
    slim = replace(snapshot, live=tuple(found for found in snapshot.live if found.id not in without))
    return World(slim, Bounds(slim, policy))


def aging_of(snapshot, policy):
    return Aging(snapshot.at_ms, policy.aging_full_after_s, Bounds(snapshot, policy).nominals)


def borrowers(snapshot, policy):
    """Attempts that are borrowed now or under notice, by queue; those that nobody may stop are left out."""
    world = world_of(snapshot, policy)
    found = {}
    if WHOLE not in world.shares:
        return found
    for attempt in snapshot.live:
        queue = policy_queue(policy, attempt.queue)
        is_borrowed = attempt.id in world.shares[WHOLE].charged(queue, snapshot.at_ms)[1]
        is_reclaimed = attempt.reclaimed_by is not None
        if is_reclaimed or (is_borrowed and not attempt.is_protected):
            found.setdefault(queue, set()).add(attempt.id)
    return found


def keep(world, kept, job, queue, *, is_begun=False):
    """Put a planned start into a world as it was promised; nothing where its nodes are gone.

    One that should have begun begins now, or has begun in time.
    """
    rooms = world.free.of_flavor(kept.flavor)
    if all(node in rooms.index for node, _ in kept.place):
        start_ms = max(kept.start_ms, world.at_ms)
        end_ms = (kept.start_ms if is_begun else start_ms) + job.request.walltime_s * MS
        picks = tuple((rooms.index[node], gpus) for node, gpus in kept.place)
        hold = Hold(job.id, queue, kept.flavor, job.request.gpus, start_ms, end_ms, picks, kept.share_class)
        array_id = None if job.array is None else job.array.id
        world.hold(replace(hold, is_reclaim=kept.is_reclaim, project_id=job.project_id, array_id=array_id))


def denied(snapshot, policy):
    """Waiting jobs that would start, entitled, were nobody of another queue borrowing, and whom nothing is promised.

    Entitled starts that are promised to others, and all that are promised in its own queue, go before a job;
    so does an aged job of its queue.
    """
    jobs = {job.id: job for job in snapshot.pending}
    reservations = {kept.job_id: kept for kept in snapshot.reservations if kept.job_id in jobs}
    aging = aging_of(snapshot, policy)
    lent = borrowers(snapshot, policy)
    found = set()
    for job in snapshot.pending:
        queue = policy_queue(policy, job.queue)
        is_behind = any(
            policy_queue(policy, other.queue) == queue
            and aging.is_aged(other, queue)
            and other.submitted_ms < job.submitted_ms
            for other in snapshot.pending
        )
        if is_behind or job.id in reservations:
            continue
        gone = {attempt for other, ids in lent.items() if other != queue for attempt in ids}
        world = world_of(snapshot, policy, gone)
        for kept in reservations.values():
            its = policy_queue(policy, jobs[kept.job_id].queue)
            if kept.share_class is ShareClass.ENTITLED or its == queue:
                keep(world, kept, jobs[kept.job_id], its)
        if not_eligible(job, world) is None:
            fit = fits_eligible(job, world)
            if isinstance(fit, Fit) and fit.share_class is ShareClass.ENTITLED:
                found.add(job.id)
    return found


def overtaken(snapshot, policy, plan):
    """Aged jobs that wait on for room though a later one of their queue started, each with that one.

    Or had GPUs taken back for it. What was taken back for it before starts it all the same: else it was useless.
    """
    jobs = {job.id: job for job in snapshot.pending}
    aging = aging_of(snapshot, policy)
    paid = {kept.job_id for kept in snapshot.reservations if kept.is_reclaim}
    served = {entry.job_id for entry in plan.entries if isinstance(entry, Admit)}
    served |= {entry.for_job for entry in plan.entries if isinstance(entry, Preempt)}
    world = world_of(snapshot, policy)
    return {
        (job.id, other)
        for job in snapshot.pending
        for other in sorted(served - paid)
        if job.id not in served
        and aging.is_aged(job, policy_queue(policy, job.queue))
        and policy_queue(policy, jobs[other].queue) == policy_queue(policy, job.queue)
        and jobs[other].submitted_ms > job.submitted_ms
        and not jobs[other].is_expedited
        and not_eligible(job, world) is None
    }


def put_off(snapshot, policy, plan):
    """Planned starts that come later than before, or are gone, though no entitled work took their place.

    Only entitled work may: a start of this cycle, or a planned one of a job that is entitled now. A job that another
    start left without budget or a place in its array has no planned start any more, nor has one behind an aged job of
    its queue; an aged one gives a borrowed start up for an entitled one.
    """
    told = {entry.job_id: entry for entry in plan.entries if isinstance(entry, Reserve)}
    started = {entry.job_id: entry for entry in plan.entries if isinstance(entry, Admit)}
    before = {kept.job_id: kept for kept in snapshot.reservations}
    world = world_of(snapshot, policy)
    lost = {entry.job_id for entry in plan.entries if isinstance(entry, Wait) and entry.reason in LOST}
    waiting = {job.id for job in snapshot.pending if job.id not in lost and not_eligible(job, world) is None}
    jobs = {job.id: job for job in snapshot.pending}

    def is_entitled(job):
        pools = [world.shares_of(flavor) for flavor in job.request.flavors if flavor in world.profiles]
        queue = policy_queue(policy, job.queue)
        return any(shares.class_now(queue, job.request.gpus) is ShareClass.ENTITLED for shares in pools)

    aging = aging_of(snapshot, policy)
    aged = [
        job
        for job in snapshot.pending
        if job.id in waiting and aging.is_aged(job, policy_queue(policy, job.queue))
    ]

    def is_behind(job):
        queue = policy_queue(policy, job.queue)
        return any(
            policy_queue(policy, other.queue) == queue and other.submitted_ms < job.submitted_ms
            for other in aged
        )

    is_moved_by = any(entry.share_class is ShareClass.ENTITLED for entry in started.values()) or any(
        is_entitled(jobs[job_id]) for job_id in told
    )
    if is_moved_by:
        return set()
    return {
        job_id
        for job_id, kept in before.items()
        if job_id in waiting
        and job_id not in started
        and (job_id not in told or told[job_id].start_ms > max(kept.start_ms, snapshot.at_ms))
        and not is_behind(jobs[job_id])
        and not (jobs[job_id] in aged and kept.share_class is ShareClass.BORROWED)
    }
