"""Whether a request could ever start, were nothing running; part of what `scheduler.fit` decides."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from quota.model import QuotaNode
from quota.policy import policy_queue
from scheduler.beside import folded
from scheduler.bounds import Bounds, Limit, NeverFits
from scheduler.model import Request

NO_LEVELS: Final = "-"
"""What stands for the levels of a policy that names none."""


def can_ever_fit(request: Request, queue: str, bounds: Bounds) -> NeverFits | None:
    """Whether the job could start in an idle cluster, all grants aside; None when it could.

    A job beyond its queue's nominal may borrow what the limits of the queue's path leave.
    """
    key = (queue, request)
    if key not in bounds.answers:
        bounds.answers[key] = _never(request, queue, bounds)
    return bounds.answers[key]


def _never(request: Request, queue: str, bounds: Bounds) -> NeverFits | None:
    """`can_ever_fit` for a request that was not asked about before."""
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
    if limit is Limit.LABELS:
        numbers["labels"] = ",".join(f"{key}={value}" for key, value in request.node_labels)
    if limit is Limit.TOPOLOGY:
        numbers["level"] = request.topology_required or request.topology_preferred or ""
        numbers["levels"] = ",".join(bounds.policy.topology) or NO_LEVELS
    if limit is Limit.CPUS:
        numbers["cpus_per_gpu"] = request.cpus_per_gpu or 0
        numbers["max_cpus_per_gpu"], _ = _most_beside(request, bounds)
    if limit is Limit.MEMORY:
        numbers["memory_bytes_per_gpu"] = request.memory_bytes_per_gpu or 0
        _, numbers["max_memory_bytes_per_gpu"] = _most_beside(request, bounds)
    if node is not None and node.max_walltime_s is not None:
        numbers["max_walltime_s"] = node.max_walltime_s
    return NeverFits(limit, numbers)


def _breaks_request(request: Request, _node: QuotaNode, _bounds: Bounds) -> bool:
    nodes = 1 if request.nodes is None else request.nodes
    return min(request.gpus, request.walltime_s, nodes) < 1 or request.gpus % nodes != 0


def _breaks_flavor(request: Request, _node: QuotaNode, bounds: Bounds) -> bool:
    return not any(bounds.inventory.biggest(flavor) for flavor in request.flavors)


def _breaks_labels(request: Request, _node: QuotaNode, bounds: Bounds) -> bool:
    labels = request.node_labels
    rooms = (bounds.inventory.of_flavor(flavor) for flavor in request.flavors)
    return bool(labels) and not any(found.free_of(labels) for found in rooms)


def _breaks_walltime(request: Request, node: QuotaNode, _bounds: Bounds) -> bool:
    return node.max_walltime_s is not None and request.walltime_s > node.max_walltime_s


def _breaks_max_gpus_per_job(request: Request, node: QuotaNode, _bounds: Bounds) -> bool:
    return node.max_gpus_per_job is not None and request.gpus > node.max_gpus_per_job


def _breaks_nominal(request: Request, node: QuotaNode, bounds: Bounds) -> bool:
    return not any(request.gpus <= bounds.largest(node.path, flavor) for flavor in request.flavors)


def anywhere_of(request: Request) -> Request:
    """The request without its levels of the topology."""
    return replace(request, topology_required=None, topology_preferred=None)


def _has_shape(request: Request, bounds: Bounds) -> bool:
    """Whether an idle cluster has such nodes."""
    for flavor in request.flavors:
        shape, rooms = bounds.shape(request, flavor), bounds.inventory.of_flavor(flavor)
        room = rooms.free
        if shape.terms is not None:
            room = folded(room, rooms.site.amounts, rooms.site, shape.terms)
        if rooms.pick(room, shape) is not None:
            return True
    return False


def _breaks_shape(request: Request, _node: QuotaNode, bounds: Bounds) -> bool:
    gpus_alone = replace(anywhere_of(request), cpus_per_gpu=None, memory_bytes_per_gpu=None)
    return not _has_shape(gpus_alone, bounds)


def _breaks_cpus(request: Request, _node: QuotaNode, bounds: Bounds) -> bool:
    return not _has_shape(replace(anywhere_of(request), memory_bytes_per_gpu=None), bounds)


def _breaks_memory(request: Request, _node: QuotaNode, bounds: Bounds) -> bool:
    return not _has_shape(anywhere_of(request), bounds)


def _breaks_topology(request: Request, _node: QuotaNode, bounds: Bounds) -> bool:
    return not _has_shape(request, bounds)


def _most_beside(request: Request, bounds: Bounds) -> tuple[int, int]:
    """The most CPUs, and bytes of memory, for each GPU of the request on the nodes it may get."""
    found = (0, 0)
    for flavor in request.flavors:
        site = bounds.inventory.of_flavor(flavor).site
        nodes = site.parts(request.node_labels, None).positions
        each = request.gpus // request.nodes if request.nodes else min(request.gpus, site.sizes.biggest)
        nodes = nodes[site.sizes.counts[nodes] >= each]
        most = [int((amount[nodes] // max(1, each)).max(initial=0)) for amount in site.amounts]
        found = (max(found[0], most[0]), max(found[1], most[1]))
    return found


_LIMITS: Final[tuple[tuple[Limit, Callable[[Request, QuotaNode, Bounds], bool]], ...]] = (
    (Limit.REQUEST, _breaks_request),
    (Limit.FLAVOR, _breaks_flavor),
    (Limit.LABELS, _breaks_labels),
    (Limit.WALLTIME, _breaks_walltime),
    (Limit.MAX_GPUS_PER_JOB, _breaks_max_gpus_per_job),
    (Limit.NOMINAL, _breaks_nominal),
    (Limit.SHAPE, _breaks_shape),
    (Limit.CPUS, _breaks_cpus),
    (Limit.MEMORY, _breaks_memory),
    (Limit.TOPOLOGY, _breaks_topology),
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
    labels, level = request.node_labels, request.topology_required
    most = max(
        (
            min(
                bounds.inventory.of_flavor(flavor).most(labels, level, nodes),
                bounds.largest(node.path, flavor),
            )
            for flavor in request.flavors
        ),
        default=0,
    )
    if node.max_gpus_per_job is not None:
        most = min(most, node.max_gpus_per_job)
    return most - most % (nodes or 1)
