"""Whether a job fits, and if not, why: the only place that decides it.

The plan asks it, the applier asks it again before it writes, submission asks `can_ever_fit`, and the answer
to "why is my job waiting" is its refusal.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, cast

import numpy as np

from quota.policy import policy_queue
from quota.tree import QuotaRefusal
from scheduler.beside import folded
from scheduler.bounds import Bounds, Limit, NeverFits
from scheduler.model import GrantView, JobId, Numbers, PendingJob, ReasonCode, Request, ShareClass, Slot
from scheduler.never import anywhere_of, can_ever_fit
from scheduler.place import Picks, Shape
from scheduler.profile import Hold, Profile
from scheduler.running import MS
from scheduler.shares import Ask
from scheduler.windows import Window, WindowKind
from scheduler.world import Fit, World, claim_s

__all__ = [
    "LACKS",
    "MS",
    "Bounds",
    "Fit",
    "Limit",
    "NeverFits",
    "NoFit",
    "World",
    "can_ever_fit",
    "claim_s",
    "fits",
    "fits_eligible",
    "has_room",
    "is_free_to_start",
    "must_be_entitled",
    "not_eligible",
]


@dataclass(frozen=True, slots=True)
class NoFit:
    """The job cannot start now; why, with numbers."""

    reason: ReasonCode
    numbers: Numbers = field(default_factory=dict)


LACKS: Final = ("topology", "cpus", "memory")
"""What may be missing where GPUs are not, as the numbers of a refusal say it (`lacks`)."""

DISRUPTIONS: Final = "disruptions"
"""What BORROWING_LIMIT names as its `cause` where the job was stopped for others as often as may be."""

_FURTHEST: Final = {
    reason: place
    for place, reason in enumerate(
        (
            ReasonCode.GRANT_NOT_ACTIVE,
            ReasonCode.BUDGET_EXHAUSTED,
            ReasonCode.QUEUE_LIMIT,
            ReasonCode.BORROWING_LIMIT,
            ReasonCode.NO_CAPACITY,
            ReasonCode.FRAGMENTED,
            ReasonCode.FRAGMENTED_BY_ENTITLED,
            ReasonCode.MAINTENANCE,
            ReasonCode.RESERVED_FOR,
        )
    )
}
"""How near to a start each refusal is: with several flavors, the one that came nearest is decisive."""


def fits(job: PendingJob, world: World, *, slots: tuple[Slot, ...] | None = None) -> Fit | NoFit:
    """Whether the job can start in this world.

    Decided in this order: what neither room nor quota can mend (`not_eligible`); then per flavor, in the
    job's order of preference, GRANT_NOT_ACTIVE, BUDGET_EXHAUSTED, QUEUE_LIMIT (the queue's own borrowing limit)
    or BORROWING_LIMIT (a node above it, or what others keep), FRAGMENTED_BY_ENTITLED, FRAGMENTED or NO_CAPACITY
    where GPUs are missing, MAINTENANCE or RESERVED_FOR where free ones are spoken for.

    Args:
        job: a pending job.
        world: what runs and what has started before it.
        slots: exactly these instead of a placement: how an applier re-checks a plan's entry.

    Returns:
        Where it fits, or the one decisive reason why not.
    """
    refusal = not_eligible(job, world)
    return fits_eligible(job, world, slots=slots) if refusal is None else refusal


def fits_eligible(job: PendingJob, world: World, *, slots: tuple[Slot, ...] | None = None) -> Fit | NoFit:
    """`fits` for a job that `not_eligible` does not refuse."""
    found: list[NoFit] = []
    for flavor in job.request.flavors:
        here = _fits_flavor(job, flavor, world, slots)
        if isinstance(here, Fit):
            return here
        found.append(here)
    return max(found, key=_nearness)


def has_room(request: Request, world: World) -> bool:
    """Whether GPUs for the request are free, whatever quota and budget say."""
    shapes = (world.bounds.shape(request, flavor) for flavor in request.flavors)
    return any(world.choose(shape) is not None for shape in shapes)


def not_eligible(job: PendingJob, world: World) -> NoFit | None:
    """Reasons that neither room nor quota can mend; None where there is none.

    In this order: NEVER_FITS, PROJECT_SUSPENDED, HELD, PAUSED, DEPENDENCY, BEGIN_TIME, ARRAY_CAP, BACKOFF,
    GRANT_NOT_ACTIVE, BUDGET_EXHAUSTED.
    """
    never = can_ever_fit(job.request, job.queue, world.bounds)
    if never is not None:
        return NoFit(ReasonCode.NEVER_FITS, never.numbers)
    refusal = _kept_back(job, world)
    if refusal is not None:
        return refusal
    refusals: list[NoFit] = []
    for flavor in job.request.flavors:
        grant = _grant(job, flavor, world)
        if not isinstance(grant, NoFit):
            return None
        refusals.append(grant)
    return max(refusals, key=_nearness)


def _kept_back(job: PendingJob, world: World) -> NoFit | None:
    """What someone or something keeps from starting, the first that applies."""
    found: NoFit | None = None
    if job.is_suspended:
        found = NoFit(ReasonCode.PROJECT_SUSPENDED)
    elif job.is_held:
        found = NoFit(ReasonCode.HELD)
    elif job.is_paused:
        found = NoFit(ReasonCode.PAUSED)
    elif job.waits_for is not None:
        found = NoFit(ReasonCode.DEPENDENCY, {"job": job.waits_for})
    elif job.begin_ms > world.at_ms:
        found = NoFit(ReasonCode.BEGIN_TIME, {"start_ms": job.begin_ms})
    elif job.array is not None and world.of_array(job.array.id, job.id) >= job.array.cap:
        found = NoFit(ReasonCode.ARRAY_CAP, {"array": job.array.id, "limit": job.array.cap})
    elif job.back_off_until_ms > world.at_ms:
        found = NoFit(ReasonCode.BACKOFF, {"until_ms": job.back_off_until_ms, "attempts": job.attempts})
    return found


def is_free_to_start(job: PendingJob, at_ms: int) -> bool:
    """Whether nothing of the job itself keeps it back: then `not_eligible` is the same for all like it."""
    return (
        job.array is None
        and job.waits_for is None
        and not (job.is_suspended or job.is_held or job.is_paused)
        and max(job.begin_ms, job.back_off_until_ms) <= at_ms
    )


def _nearness(nofit: NoFit) -> int:
    return _FURTHEST[nofit.reason]


def _fits_flavor(job: PendingJob, flavor: str, world: World, slots: tuple[Slot, ...] | None) -> Fit | NoFit:
    """Grant, budget, quota and room for one flavor."""
    grant = _grant(job, flavor, world)
    if isinstance(grant, NoFit):
        return grant
    if flavor not in world.profiles:
        return _no_room(job, flavor, world, is_entitled=False)
    ask = ask_now(job, flavor, world)
    refusal = world.shares_of(flavor).refusal(ask)
    if refusal is not None:
        return limited(job, refusal)
    if not ask.is_entitled and must_be_entitled(job.request, ask.queue, world.bounds):
        return NoFit(
            ReasonCode.BORROWING_LIMIT,
            {
                "queue": job.queue,
                "node": job.queue,
                "lendable_gpus": 0,
                "gpus": job.request.gpus,
                "cause": DISRUPTIONS,
            },
        )
    found = _slots(job, flavor, world, ask) if slots is None else _those(job, flavor, world, slots)
    if isinstance(found, NoFit):
        return found
    share_class = ShareClass.ENTITLED if ask.is_entitled else ShareClass.BORROWED
    return Fit(found, flavor, grant.id, claim_s(job.request), share_class)


def _slots(job: PendingJob, flavor: str, world: World, ask: Ask) -> tuple[Slot, ...] | NoFit:
    """A placement in what is free and not spoken for."""
    shape = world.bounds.shape(job.request, flavor)
    choice = world.choose(shape)
    if choice is None:
        return _no_room(job, flavor, world, is_entitled=ask.is_entitled)
    profile = world.profiles[flavor]
    if profile.windows or world.shares_of(flavor).holds:
        picks = _spot(job, profile, world, ask, shape)
        if isinstance(picks, NoFit):
            return picks
        choice = profile.rooms.named(picks)
    return world.free.slots(choice)


def ask_now(job: PendingJob, flavor: str, world: World) -> Ask:
    """The job's start now as the quota tree sees it."""
    shares = world.shares_of(flavor)
    queue = policy_queue(world.bounds.policy, job.queue)
    gpus = job.request.gpus
    end_ms = world.at_ms + job.request.walltime_s * MS
    is_entitled = shares.class_now(queue, gpus) is ShareClass.ENTITLED
    past: frozenset[JobId] = frozenset()
    if shares.holds and not is_entitled:
        past = shares.runs_past(queue, gpus, world.bounds.grace_ms(queue), world.at_ms, end_ms)
    return Ask(queue, gpus, world.at_ms, end_ms, is_entitled, past)


def must_be_entitled(request: Request, queue: str, bounds: Bounds) -> bool:
    """Whether the request starts within its queue's guarantee alone; never where that is too small for it."""
    return request.is_entitled_only and any(
        request.gpus <= bounds.nominal(queue, flavor) for flavor in request.flavors
    )


def limited(job: PendingJob, refusal: QuotaRefusal) -> NoFit:
    """A limit of the quota tree as a reason: the queue's own, or one of those it borrows from."""
    gpus = job.request.gpus
    if refusal.node == job.queue:
        numbers = {"nominal": refusal.nominal_gpus, "used": refusal.used_gpus, "gpus": gpus}
        return NoFit(ReasonCode.QUEUE_LIMIT, {"queue": refusal.node, **numbers})
    numbers = {"lendable_gpus": refusal.room_gpus, "gpus": gpus}
    return NoFit(ReasonCode.BORROWING_LIMIT, {"queue": job.queue, "node": refusal.node, **numbers})


def _counts(job: PendingJob, flavor: str, world: World) -> dict[str, int | str]:
    """What is free on nodes that have the job's labels, and what it asks for."""
    free = world.free.of_flavor(flavor).free_of(job.request.node_labels)
    return {"free": free, "gpus": job.request.gpus, "flavor": flavor}


def _no_room(job: PendingJob, flavor: str, world: World, *, is_entitled: bool) -> NoFit:
    """GPUs are missing, or there are enough in no shape that would do."""
    gpus, labels = job.request.gpus, job.request.node_labels
    numbers = _counts(job, flavor, world)
    reason = ReasonCode.FRAGMENTED if int(numbers["free"]) >= gpus else ReasonCode.NO_CAPACITY
    if reason is ReasonCode.FRAGMENTED:
        numbers |= _lacks(job.request, flavor, world)
    if is_entitled:
        profile = world.profiles[flavor]
        shape = world.bounds.shape(job.request, flavor)
        borrowed = world.shares_of(flavor).borrowed_of_others(policy_queue(world.bounds.policy, job.queue))
        room = world.with_beside_now(profile.without(borrowed), shape, borrowed)
        is_enough = int(profile.rooms.site.parts(labels, None).totals(room).sum()) >= gpus
        if is_enough and profile.rooms.pick(room, shape) is None:
            reason = ReasonCode.FRAGMENTED_BY_ENTITLED
    return NoFit(reason, numbers)


def _lacks(request: Request, flavor: str, world: World) -> dict[str, int | str]:
    """What is missing where GPUs are not, with its figures: a level's domain, CPUs, memory; empty for a shape."""
    shape = world.bounds.shape(request, flavor)
    anywhere = world.bounds.shape(anywhere_of(request), flavor)
    level, rooms = request.topology_required, world.free.of_flavor(flavor)
    if level is not None and world.choose(anywhere) is not None:
        is_whole = request.gpus > rooms.sizes.biggest
        most = rooms.most(request.node_labels, level, request.nodes, is_whole=is_whole)
        return {"lacks": "topology", "level": level, "largest": most}
    left = world.left_now(shape)
    if left is None or rooms.pick(rooms.free, anywhere) is None:
        return {}
    nodes = rooms.site.parts(request.node_labels, None).positions
    cpus, memory = (np.maximum(amount[nodes], 0) for amount in left)
    shares = [int(share[nodes].min()) for share in rooms.site.shares]
    with_cpus = folded(rooms.free, (left[0], rooms.site.amounts[1]), rooms.site, shape.terms)
    if rooms.pick(with_cpus, anywhere) is None:
        needed = shares[0] if request.cpus_per_gpu is None else request.cpus_per_gpu
        return {"lacks": "cpus", "cpus_per_gpu": needed, "free_cpus": int(cpus.sum())}
    needed = shares[1] if request.memory_bytes_per_gpu is None else request.memory_bytes_per_gpu
    return {"lacks": "memory", "memory_bytes_per_gpu": needed, "free_memory_bytes": int(memory.sum())}


def _spot(job: PendingJob, profile: Profile, world: World, ask: Ask, shape: Shape) -> Picks | NoFit:
    """Nodes for a start now that moves no planned start and runs into no window, or what shuts it out."""
    demoted = world.shares_of(profile.flavor).demoted(ask.queue, ask.gpus, ask.start_ms, ask.end_ms)
    if demoted is not None:
        return _reserved(demoted)
    # What is left does not depend on the queue but by what it may run past: like jobs of all queues share an answer.
    owner = job.project_id if profile.windows else None
    key = (world.version, shape, job.request.walltime_s, ask.past, owner)
    if key not in world.spots:
        world.spots[key] = _spot_beside(job, profile, world, ask, shape)
    return cast("Picks | NoFit", world.spots[key])


def _spot_beside(job: PendingJob, profile: Profile, world: World, ask: Ask, shape: Shape) -> Picks | NoFit:
    """Nodes beside planned starts and windows, or the first of them that shuts the job out."""
    span = (ask.start_ms, ask.end_ms)
    everyone = frozenset(profile.holds)
    beside_all = profile.open(profile.throughout(*span, past=ask.past), *span, job.project_id)
    beside_all = world.with_beside(beside_all, shape, ask, ())
    picks = profile.rooms.pick(beside_all, shape)
    if picks is not None:
        return picks
    beside_none = profile.open(profile.rooms.free, *span, job.project_id)
    beside_none = world.with_beside(beside_none, shape, ask._replace(past=everyone), ())
    if profile.rooms.pick(beside_none, shape) is None:
        closed = (window for window, _ in profile.closed(*span, job.project_id))
        return _in_window(min(closed, key=lambda window: window.from_ms))
    counted: set[JobId] = set()
    for hold in profile.holds.values():  # pragma: no branch - with every hold counted it is shut out
        counted.add(hold.job_id)
        past = (everyone - counted).union(ask.past)
        room = profile.open(profile.throughout(*span, past=past), *span, job.project_id)
        room = world.with_beside(room, shape, ask._replace(past=past), ())
        if profile.rooms.pick(room, shape) is None:
            break
    return _reserved(hold)


def _in_window(window: Window) -> NoFit:
    numbers: dict[str, int | str] = {"window": window.id, "start_ms": window.from_ms}
    if window.kind is WindowKind.RESERVATION:
        return NoFit(ReasonCode.RESERVED_FOR, {"job": window.id, **numbers})
    return NoFit(ReasonCode.MAINTENANCE, numbers)


def _reserved(hold: Hold) -> NoFit:
    return NoFit(ReasonCode.RESERVED_FOR, {"job": hold.job_id, "start_ms": hold.start_ms})


def _those(job: PendingJob, flavor: str, world: World, slots: tuple[Slot, ...]) -> tuple[Slot, ...] | NoFit:
    """The given slots if they are free, in no window, and what was asked for."""
    gpus = sum(len(slot.gpu_uuids) for slot in slots)
    is_gang = job.request.nodes in {None, len(slots)}
    is_asked = gpus == job.request.gpus and is_gang and world.free.flavor_of(slots) == flavor
    if is_asked:
        rooms, shape = world.free.of_flavor(flavor), world.bounds.shape(job.request, flavor)
        picks = tuple((rooms.index[slot.node], len(slot.gpu_uuids)) for slot in slots)
        room = world.with_beside_now(rooms.free, shape)
        profile, end_ms = world.profiles[flavor], world.at_ms + job.request.walltime_s * MS
        shut = profile.shut(picks, world.at_ms, end_ms, job.project_id)
        if shut is not None:
            return _in_window(shut)
        is_enough = all(room[node] >= gpus for node, gpus in picks)
        if is_enough and rooms.allows([node for node, _ in picks], shape):
            return slots
    return NoFit(ReasonCode.NO_CAPACITY, _counts(job, flavor, world))


def is_payable(job: PendingJob, flavor: str, world: World) -> bool:
    """Whether a grant pays for the job on the flavor: active until the walltime ends, and covering the claim."""
    return not isinstance(_grant(job, flavor, world), NoFit)


def _grant(job: PendingJob, flavor: str, world: World) -> GrantView | NoFit:
    """The grant that pays: active until the walltime ends, covering the claim, and the first to end."""
    ends_ms = world.at_ms + job.request.walltime_s * MS
    active = world.active_grants(job.project_id, flavor, world.at_ms, ends_ms)
    if not active:
        known = world.grants(job.project_id, flavor)
        numbers: dict[str, int | str] = {"flavor": flavor, "walltime_s": job.request.walltime_s}
        if known:
            # The last to end says it best: either it is still to come, or nothing reaches farther.
            numbers |= {"starts_ms": known[-1].starts_ms, "ends_ms": known[-1].ends_ms}
        return NoFit(ReasonCode.GRANT_NOT_ACTIVE, numbers)
    needed_s = claim_s(job.request)
    for grant in active:
        if grant.remaining_s - world.claimed_s(grant.id, job.id) >= needed_s:
            return grant
    fattest = max(active, key=lambda grant: grant.remaining_s - world.claimed_s(grant.id, job.id))
    claimed_s = world.claimed_s(fattest.id, job.id)
    return NoFit(
        ReasonCode.BUDGET_EXHAUSTED,
        {
            "claim_s": needed_s,
            "remaining_s": fattest.remaining_s - claimed_s,
            "pending_s": fattest.pending_s + claimed_s,
        },
    )
