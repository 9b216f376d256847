"""Whether a job fits, and if not, why: the only place that decides it.

The plan asks it, the applier asks it again before it writes, submission asks `can_ever_fit`, and the answer
to "why is my job waiting" is its refusal.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final
from uuid import UUID

from quota.cohort import QuotaUse, nominals
from quota.model import GrantId, Policy, QuotaNode
from quota.policy import policy_queue
from scheduler.model import GrantView, Numbers, PendingJob, ReasonCode, Request, Slot, Snapshot
from scheduler.place import FreeView, Shape

MS: Final = 1_000
"""Milliseconds of a second."""


@dataclass(frozen=True, slots=True)
class Fit:
    """The job can start: on these slots of one flavor, claiming `claim_s` device-seconds of the grant."""

    slots: tuple[Slot, ...]
    flavor: str
    grant_id: GrantId
    claim_s: int


@dataclass(frozen=True, slots=True)
class NoFit:
    """The job cannot start now; why, with numbers."""

    reason: ReasonCode
    numbers: Numbers = field(default_factory=dict)


class Limit(StrEnum):
    """What makes a job impossible, whoever else runs."""

    QUEUE = "queue"
    """The policy has no such queue."""
    REQUEST = "request"
    """GPUs, nodes or walltime below 1, or GPUs that do not divide by the nodes."""
    FLAVOR = "flavor"
    """No node in service has a flavor of the list."""
    WALLTIME = "walltime"
    """Longer than the queue's longest walltime."""
    MAX_GPUS_PER_JOB = "max_gpus_per_job"
    """Larger than the queue's largest job."""
    NOMINAL = "nominal"
    """Larger than the nominal quota of a node on the queue's path."""
    SHAPE = "shape"
    """No such set of nodes in service, were they all free."""


@dataclass(frozen=True, slots=True)
class NeverFits:
    """The job can never start as asked.

    `numbers`: `limit`, what was asked (`queue`, `gpus`, `walltime_s`) and what would fit: `max_gpus` (0 = the
    queue takes none), `flavors` in service (joined by ","), and `max_walltime_s` where the queue has one.
    """

    limit: Limit
    numbers: Numbers


class Bounds:
    """What could ever fit: the policy on the inventory in service, were nothing running.

    Args:
        snapshot: its nodes (without drained ones) and capacity count, nothing else.
        policy: the policy in force.
    """

    def __init__(self, snapshot: Snapshot, policy: Policy) -> None:
        parents = {node.parent for node in policy.tree}
        self.policy: Final = policy
        self.nominals: Final = nominals(policy, sum(snapshot.capacity.values()))
        self.queues: Final[Mapping[str, QuotaNode]] = {
            node.path: node for node in policy.tree if node.path not in parents
        }
        self.largest: Final = {queue: QuotaUse().headroom(queue, self.nominals) for queue in self.queues}
        self.inventory: Final = FreeView.in_service(snapshot.nodes)


class World:
    """What a job meets at its turn: free GPUs, quota in use, grants. `start` moves it on.

    Working state of one cycle; the snapshot it was made of stays as it was.
    """

    def __init__(self, snapshot: Snapshot, bounds: Bounds) -> None:
        self.at_ms: Final = snapshot.at_ms
        self.bounds: Final = bounds
        self.free: Final = FreeView.of(snapshot.nodes, snapshot.live)
        self.use = QuotaUse.of(
            (policy_queue(bounds.policy, attempt.queue), attempt.request.gpus) for attempt in snapshot.live
        )
        self._grants: dict[tuple[UUID, str], list[GrantView]] = {}
        self._claimed_s: dict[GrantId, int] = {}
        # First to end is first to be used, so that as little as possible expires.
        for grant in sorted(snapshot.grants, key=lambda grant: (grant.ends_ms, grant.id)):
            self._grants.setdefault((grant.project_id, grant.flavor), []).append(grant)

    def grants(self, project_id: UUID, flavor: str) -> list[GrantView]:
        """The project's grants of a flavor, first to end first, as the snapshot has them."""
        return self._grants.get((project_id, flavor), [])

    def claimed_s(self, grant_id: GrantId) -> int:
        """Device-seconds of the grant that this cycle's starts have claimed."""
        return self._claimed_s.get(grant_id, 0)

    def start(self, job: PendingJob, fit: Fit) -> None:
        """The job starts: its GPUs, quota and claim are gone for those behind it.

        Raises:
            GpusTakenError: the slots are not free; ask `fits` first.
        """
        self.free.take(fit.slots)
        self.use = self.use.plus(policy_queue(self.bounds.policy, job.queue), job.request.gpus)
        self._claimed_s[fit.grant_id] = self.claimed_s(fit.grant_id) + fit.claim_s


_FURTHEST: Final = {
    ReasonCode.GRANT_NOT_ACTIVE: 0,
    ReasonCode.BUDGET_EXHAUSTED: 1,
    ReasonCode.QUEUE_LIMIT: 2,
    ReasonCode.NO_CAPACITY: 3,
    ReasonCode.FRAGMENTED: 4,
}
"""How near to a start each refusal is: with several flavors, the one that came nearest is decisive."""


def fits(job: PendingJob, world: World, *, slots: tuple[Slot, ...] | None = None) -> Fit | NoFit:
    """Whether the job can start in this world.

    Decided in this order: NEVER_FITS, PROJECT_SUSPENDED, HELD, BACKOFF; then per flavor, in the job's order
    of preference, GRANT_NOT_ACTIVE, BUDGET_EXHAUSTED, QUEUE_LIMIT, NO_CAPACITY or FRAGMENTED.

    Args:
        job: a pending job.
        world: what runs and what has started before it.
        slots: exactly these instead of a placement: how an applier re-checks a plan's entry.

    Returns:
        Where it fits, or the one decisive reason why not.
    """
    refusal = _not_eligible(job, world)
    if refusal is not None:
        return refusal
    found: list[NoFit] = []
    for flavor in job.request.flavors:
        here = _fits_flavor(job, flavor, world, slots)
        if isinstance(here, Fit):
            return here
        found.append(here)
    return max(found, key=lambda nofit: _FURTHEST[nofit.reason])


def has_room(request: Request, world: World) -> bool:
    """Whether GPUs for the request are free, whatever quota and budget say."""
    return any(world.free.choose(shape_of(request, flavor)) is not None for flavor in request.flavors)


def shape_of(request: Request, flavor: str) -> Shape:
    """What placement needs to know of a request."""
    return Shape(flavor, request.gpus, request.nodes)


def claim_s(request: Request) -> int:
    """What a start claims of the grant, in device-seconds: GPUs x walltime."""
    return request.gpus * request.walltime_s


def can_ever_fit(request: Request, queue: str, bounds: Bounds) -> NeverFits | None:
    """Whether the job could start in an idle cluster, all grants aside; None when it could.

    Without borrowing a job is bound by the nominal quota of its queue and of every node above it.
    """
    node = bounds.queues.get(policy_queue(bounds.policy, queue))
    limit = _limit(request, node, bounds)
    if limit is None:
        return None
    numbers: dict[str, int | str] = {
        "limit": limit,
        "queue": queue,
        "gpus": request.gpus,
        "walltime_s": request.walltime_s,
        "max_gpus": _max_gpus(request, node, bounds),
        "flavors": ",".join(bounds.inventory.flavors),
    }
    if node is not None and node.max_walltime_s is not None:
        numbers["max_walltime_s"] = node.max_walltime_s
    return NeverFits(limit, numbers)


def _breaks_request(request: Request, _node: QuotaNode, _bounds: Bounds) -> bool:
    nodes = 1 if request.nodes is None else request.nodes
    return min(request.gpus, request.walltime_s, nodes) < 1 or request.gpus % nodes != 0


def _breaks_flavor(request: Request, _node: QuotaNode, bounds: Bounds) -> bool:
    return not any(bounds.inventory.biggest(flavor) for flavor in request.flavors)


def _breaks_walltime(request: Request, node: QuotaNode, _bounds: Bounds) -> bool:
    return node.max_walltime_s is not None and request.walltime_s > node.max_walltime_s


def _breaks_max_gpus_per_job(request: Request, node: QuotaNode, _bounds: Bounds) -> bool:
    return node.max_gpus_per_job is not None and request.gpus > node.max_gpus_per_job


def _breaks_nominal(request: Request, node: QuotaNode, bounds: Bounds) -> bool:
    return request.gpus > bounds.largest[node.path]


def _breaks_shape(request: Request, _node: QuotaNode, bounds: Bounds) -> bool:
    return not any(bounds.inventory.choose(shape_of(request, flavor)) for flavor in request.flavors)


_LIMITS: Final = (
    (Limit.REQUEST, _breaks_request),
    (Limit.FLAVOR, _breaks_flavor),
    (Limit.WALLTIME, _breaks_walltime),
    (Limit.MAX_GPUS_PER_JOB, _breaks_max_gpus_per_job),
    (Limit.NOMINAL, _breaks_nominal),
    (Limit.SHAPE, _breaks_shape),
)
"""The limits in the order in which they are told; each may count on those before it."""


def _limit(request: Request, node: QuotaNode | None, bounds: Bounds) -> Limit | None:
    """The first limit that the request breaks."""
    if node is None:
        return Limit.QUEUE
    return next((limit for limit, breaks in _LIMITS if breaks(request, node, bounds)), None)


def _max_gpus(request: Request, node: QuotaNode | None, bounds: Bounds) -> int:
    """The largest job of the request's flavors and number of nodes that the queue could ever start."""
    if node is None:
        return 0
    nodes = None if request.nodes is None else max(1, request.nodes)
    most = max((bounds.inventory.most_on(flavor, nodes) for flavor in request.flavors), default=0)
    most = min(most, bounds.largest[node.path])
    if node.max_gpus_per_job is not None:
        most = min(most, node.max_gpus_per_job)
    return most - most % (nodes or 1)


def _not_eligible(job: PendingJob, world: World) -> NoFit | None:
    """Reasons that neither room nor quota can mend."""
    never = can_ever_fit(job.request, job.queue, world.bounds)
    if never is not None:
        return NoFit(ReasonCode.NEVER_FITS, never.numbers)
    if job.is_suspended:
        return NoFit(ReasonCode.PROJECT_SUSPENDED)
    if job.is_held:
        return NoFit(ReasonCode.HELD)
    if job.back_off_until_ms > world.at_ms:
        return NoFit(ReasonCode.BACKOFF, {"until_ms": job.back_off_until_ms, "attempts": job.attempts})
    return None


def _fits_flavor(job: PendingJob, flavor: str, world: World, slots: tuple[Slot, ...] | None) -> Fit | NoFit:
    """Grant, budget, quota and room for one flavor."""
    grant = _grant(job, flavor, world)
    if isinstance(grant, NoFit):
        return grant
    queue = policy_queue(world.bounds.policy, job.queue)
    refusal = world.use.refusal(queue, job.request.gpus, world.bounds.nominals)
    if refusal is not None:
        return NoFit(
            ReasonCode.QUEUE_LIMIT,
            {
                "queue": refusal.node,
                "nominal": refusal.nominal_gpus,
                "used": refusal.used_gpus,
                "gpus": job.request.gpus,
            },
        )
    found = _room(job.request, flavor, world) if slots is None else _those(job.request, flavor, world, slots)
    if found is None:
        free = world.free.free(flavor)
        is_scattered = slots is None and free >= job.request.gpus
        reason = ReasonCode.FRAGMENTED if is_scattered else ReasonCode.NO_CAPACITY
        return NoFit(reason, {"free": free, "gpus": job.request.gpus, "flavor": flavor})
    return Fit(found, flavor, grant.id, claim_s(job.request))


def _room(request: Request, flavor: str, world: World) -> tuple[Slot, ...] | None:
    """A placement in what is free."""
    choice = world.free.choose(shape_of(request, flavor))
    return None if choice is None else world.free.slots(choice)


def _those(request: Request, flavor: str, world: World, slots: tuple[Slot, ...]) -> tuple[Slot, ...] | None:
    """The given slots if they are free and what was asked for."""
    gpus = sum(len(slot.gpu_uuids) for slot in slots)
    is_gang = request.nodes in {None, len(slots)}
    is_asked = gpus == request.gpus and is_gang and world.free.flavor_of(slots) == flavor
    return slots if is_asked else None


def _grant(job: PendingJob, flavor: str, world: World) -> GrantView | NoFit:
    """The grant that pays: active until the walltime ends, covering the claim, and the first to end."""
    ends_ms = world.at_ms + job.request.walltime_s * MS
    known = world.grants(job.project_id, flavor)
    active = [grant for grant in known if grant.starts_ms <= world.at_ms and ends_ms <= grant.ends_ms]
    if not active:
        numbers: dict[str, int | str] = {"flavor": flavor, "walltime_s": job.request.walltime_s}
        if known:
            # The last to end says it best: either it is still to come, or nothing reaches farther.
            numbers |= {"starts_ms": known[-1].starts_ms, "ends_ms": known[-1].ends_ms}
        return NoFit(ReasonCode.GRANT_NOT_ACTIVE, numbers)
    needed_s = claim_s(job.request)
    for grant in active:
        if grant.remaining_s - world.claimed_s(grant.id) >= needed_s:
            return grant
    fattest = max(active, key=lambda grant: grant.remaining_s - world.claimed_s(grant.id))
    claimed_s = world.claimed_s(fattest.id)
    return NoFit(
        ReasonCode.BUDGET_EXHAUSTED,
        {
            "claim_s": needed_s,
            "remaining_s": fattest.remaining_s - claimed_s,
            "pending_s": fattest.pending_s + claimed_s,
        },
    )
