"""The quota policy: a document becomes a frozen `Policy`, or a clear refusal.

The shape of a document: `examples/policy.yaml`. Shares and durations are exact; nothing is guessed.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Mapping
from dataclasses import replace
from datetime import date
from fractions import Fraction
from typing import Final

from quota import document as read
from quota.cohort import asked_gpus, children, divide
from quota.document import PolicyCode, PolicyError, bad
from quota.model import (
    ENACTING_KINDS,
    ROOT,
    Ground,
    GroundKind,
    Policy,
    QuotaNode,
    Share,
)
from quota.routes import check_routes, parse_routes, route
from quota.slices import SLICE_KEYS, parse_slices
from quota.tree import WHOLE, in_pool, slices_of

__all__ = [
    "PolicyCode",
    "PolicyError",
    "load_policy_text",
    "parse_policy",
    "policy_digest",
    "policy_queue",
    "route",
    "validate_against",
]

MAX_TREE_DEPTH: Final = 8
"""Levels of the quota tree below the root: twice the deepest ministry-to-laboratory chain we know of."""
MAX_TREE_NODES: Final = 1_000
"""Nodes of the quota tree: each cycle walks all of them."""
MAX_START_RESERVATIONS: Final = 1_000
"""Blocked jobs that may hold a planned start at a time."""
MIN_SAMPLING_S: Final = 60
"""Seconds between two samples of use at least: each looks at all that ran since the last."""
MAX_SAMPLING_S: Final = 86_400
"""Seconds between two samples of use at most: an admission counts as long at once, and fair share must follow a day."""

_NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_DIGEST = re.compile(r"[0-9a-f]{64}")

_POLICY_KEYS: Final = frozenset(
    {
        "version",
        "effective_from",
        "grounds",
        "priority_sectors",
        "usage_half_life",
        "usage_sampling",
        "aging",
        "start_reservations",
        "borrowed_reservations",
        "checkpoint",
        "fair_share_weights",
        "tree",
        "routes",
        "moves",
        "topology",
    }
)
_NODE_KEYS: Final = SLICE_KEYS | {"children", "slices"}
_QUEUE_KEYS: Final = frozenset(
    {"priority", "max_gpus_per_job", "default_walltime", "max_walltime", "preemption", "free_period"}
)


def load_policy_text(text: str) -> tuple[Mapping[str, object], Policy]:
    """Read a policy from YAML text.

    Returns:
        The document as written, made of JSON values only, to be kept with its digest; and the policy.

    Raises:
        PolicyError: the text is no such document or the policy is refused.
    """
    document = read.load_document(text)
    return document, parse_policy(document)


def parse_policy(
    document: Mapping[str, object], *, enacting_kinds: Collection[GroundKind] = ENACTING_KINDS
) -> Policy:
    """Make a policy of its document (top key `policy`), and check all that needs no capacity.

    Args:
        document: mappings, lists, texts, numbers and dates as YAML or JSON gives them; unknown keys are
            refused. The tree's order does not matter, that of the routes does.
        enacting_kinds: kinds of act of which at least one ground must be.

    Raises:
        PolicyError: BAD_POLICY (a key, a value or a route that cannot be), SHARES_EXCEED (children get more
            than their parent), NO_ENACTING_ACT (recommendations alone).
    """
    top = read.section(document, "document", {"policy"})
    path = "policy"
    found = read.section(read.required(top, path, "document"), path, _POLICY_KEYS)
    policy = Policy(
        version=read.text(read.required(found, "version", path), "policy.version"),
        effective_from=read.day(read.required(found, "effective_from", path), "policy.effective_from"),
        grounds=_grounds(read.required(found, "grounds", path), enacting_kinds),
        tree=_tree(read.required(found, "tree", path)),
        routes=parse_routes(read.required(found, "routes", path)),
    )
    policy = _with_settings(policy, found)
    for pool in (WHOLE, *sorted(slices_of(policy))):
        _check_sums(in_pool(policy, pool), pool)
    check_routes(policy, queues_of(policy))
    _check_moves(policy)
    return policy


def validate_against(policy: Policy, capacity: int) -> None:
    """Check at enactment that the nominals fit the capacity; a later loss of capacity only shrinks them.

    Args:
        policy: a parsed policy.
        capacity: GPUs in service.

    Raises:
        PolicyError: SHARES_EXCEED, naming the first parent whose children ask for more than it gets.
    """
    for alert in divide(policy, capacity).alerts:
        raise _exceeds(alert.parent, f"{alert.asked_gpus} GPUs", f"{alert.given_gpus} GPUs")


def policy_digest(document: Mapping[str, object]) -> str:
    """SHA-256 (hex) of the document as canonical JSON: sorted keys, no spaces, dates as ISO 8601.

    Raises:
        TypeError: a value that is neither JSON nor a date.
    """
    canonical = json.dumps(
        document, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=date.isoformat
    )
    return hashlib.sha256(canonical.encode()).hexdigest()


def policy_queue(policy: Policy, queue: str) -> str:
    """Where work of `queue` counts under this policy: its successor in `moves`, or the queue itself."""
    return policy.moves.get(queue, queue)


def _grounds(value: object, enacting_kinds: Collection[GroundKind]) -> tuple[Ground, ...]:
    """The acts the policy rests on; at least one of them enacts."""
    found: list[Ground] = []
    for index, item in enumerate(read.items(value, "policy.grounds")):
        path = f"policy.grounds[{index}]"
        act = read.section(item, path, {"kind", "body", "number", "date", "digest"})
        digest = read.optional(act, "digest", path, read.text, "")
        if digest and _DIGEST.fullmatch(digest) is None:
            raise bad(f"{path}.digest", "must be the document's SHA-256 in 64 hexadecimal digits")
        found.append(
            Ground(
                kind=read.member(read.required(act, "kind", path), f"{path}.kind", GroundKind),
                body=read.text(read.required(act, "body", path), f"{path}.body"),
                number=read.text(read.required(act, "number", path), f"{path}.number"),
                date=read.day(read.required(act, "date", path), f"{path}.date"),
                digest=digest or None,
            )
        )
    if not any(ground.kind in enacting_kinds for ground in found):
        raise PolicyError(
            PolicyCode.NO_ENACTING_ACT,
            "policy.grounds",
            "no ground enacts: a council's protocol recommends only; add the enacting act, of kind "
            + " or ".join(sorted(enacting_kinds)),
        )
    return tuple(found)


def _tree(value: object) -> tuple[QuotaNode, ...]:
    """All nodes of the tree, sorted by path."""
    found: list[QuotaNode] = []
    todo = [(ROOT, "policy.tree", read.mapping(value, "policy.tree"))]
    while todo:
        parent, path, level = todo.pop()
        if not level:
            raise bad(path, "has no children; name at least one")
        for name, item in level.items():
            here = f"{path}.{name}"
            node_path = f"{parent}/{name}" if parent else name
            if _NAME.fullmatch(name) is None:
                raise bad(here, "a name has 1 to 63 small Latin letters, digits and inner hyphens")
            if node_path.count("/") >= MAX_TREE_DEPTH:
                raise bad(here, f"is deeper than {MAX_TREE_DEPTH} levels; make the tree flatter")
            node, below = _node(node_path, here, item)
            found.append(node)
            if len(found) > MAX_TREE_NODES:
                raise bad(here, f"the tree has more than {MAX_TREE_NODES} nodes")
            if below is not None:
                todo.append((node_path, f"{here}.children", below))
    return tuple(sorted(found, key=lambda node: node.path))


def _node(path: str, here: str, value: object) -> tuple[QuotaNode, Mapping[str, object] | None]:
    """One node as the document writes it, and its children's level where it has one."""
    raw = read.section({} if value is None else value, here, _NODE_KEYS | _QUEUE_KEYS)
    for key in raw:
        if "children" in raw and key in _QUEUE_KEYS:
            raise bad(f"{here}.{key}", "is a setting of queues; write it at each queue below instead")
    preemption = read.section(raw.get("preemption", {}), f"{here}.preemption", {"grace"})
    node = QuotaNode(
        path=path,
        nominal=read.optional(raw, "nominal", here, read.amount, None),
        borrowing_limit=read.optional(raw, "borrowing_limit", here, read.amount, None),
        lending_limit=read.optional(raw, "lending_limit", here, read.amount, None),
        weight=read.optional(raw, "weight", here, read.count, None),
        priority=read.optional(raw, "priority", here, read.priority, 0),
        max_gpus_per_job=read.optional(raw, "max_gpus_per_job", here, read.count, None),
        default_walltime_s=read.optional(raw, "default_walltime", here, read.duration_s, None),
        max_walltime_s=read.optional(raw, "max_walltime", here, read.duration_s, None),
        grace_s=read.optional(preemption, "grace", f"{here}.preemption", read.duration_s, 0),
        free_period_s=read.optional(raw, "free_period", here, read.duration_s, None),
        slices=read.optional(raw, "slices", here, parse_slices, ()),
    )
    if node.default_walltime_s and node.max_walltime_s and node.default_walltime_s > node.max_walltime_s:
        raise bad(f"{here}.default_walltime", "is longer than max_walltime; make it at most that")
    return node, read.optional(raw, "children", here, read.mapping, None)


def _with_settings(policy: Policy, found: Mapping[str, object]) -> Policy:
    """The policy with what the document states beyond tree, routes and grounds, else the defaults."""
    path = "policy"
    year = read.section(found.get("priority_sectors", {}), "policy.priority_sectors", {"valid_year"})
    aging = read.section(found.get("aging", {}), "policy.aging", {"full_after"})
    checkpoint = read.section(
        found.get("checkpoint", {}), "policy.checkpoint", {"max_protected", "refund_cap"}
    )
    return replace(
        policy,
        priority_sectors_year=read.optional(year, "valid_year", "policy.priority_sectors", _year, None),
        usage_half_life_s=read.optional(
            found, "usage_half_life", path, read.duration_s, policy.usage_half_life_s
        ),
        usage_sampling_s=read.optional(found, "usage_sampling", path, _sampling, policy.usage_sampling_s),
        aging_full_after_s=read.optional(
            aging, "full_after", "policy.aging", read.duration_s, policy.aging_full_after_s
        ),
        start_reservations=read.optional(
            found, "start_reservations", path, _reservations, policy.start_reservations
        ),
        borrowed_reservations=read.optional(
            found, "borrowed_reservations", path, _reservations, policy.borrowed_reservations
        ),
        checkpoint_max_protected_s=read.optional(
            checkpoint,
            "max_protected",
            "policy.checkpoint",
            read.duration_s,
            policy.checkpoint_max_protected_s,
        ),
        checkpoint_refund_cap_s=read.optional(
            checkpoint, "refund_cap", "policy.checkpoint", read.duration_s, policy.checkpoint_refund_cap_s
        ),
        fair_share_weights=read.optional(found, "fair_share_weights", path, _weights, {}),
        moves=read.optional(found, "moves", path, _moves, {}),
        topology=read.optional(found, "topology", path, read.levels, ()),
    )


def _year(value: object, path: str) -> int:
    """A calendar year."""
    return read.integer(value, path, 2024, 2100)


def _reservations(value: object, path: str) -> int:
    """A number of start reservations; 0 makes none."""
    return read.integer(value, path, 0, MAX_START_RESERVATIONS)


def _sampling(value: object, path: str) -> int:
    """Seconds between two samples of use."""
    found = read.duration_s(value, path)
    if not MIN_SAMPLING_S <= found <= MAX_SAMPLING_S:
        raise bad(path, "must be from 1m to 1d")
    return found


def _weights(value: object, path: str) -> dict[str, Fraction]:
    """Fair-share weight of each flavor."""
    return {
        flavor: read.ratio(item, f"{path}.{flavor}") for flavor, item in read.mapping(value, path).items()
    }


def _moves(value: object, path: str) -> dict[str, str]:
    """Removed queue -> its successor."""
    return {queue: read.text(item, f"{path}.{queue}") for queue, item in read.mapping(value, path).items()}


def _exceeds(parent: str, asked: str, given: str, pool: str = WHOLE) -> PolicyError:
    """The SHARES_EXCEED error of one parent."""
    of_pool = "" if pool == WHOLE else f" of {pool}"
    path = "policy.tree" + "".join(
        f".{name}" if name else "" for name in parent.replace("/", "/children/").split("/")
    )
    return PolicyError(
        PolicyCode.SHARES_EXCEED,
        path,
        f'the children of "{parent or "the root"}" come to {asked}{of_pool}, it has {given}; '
        "lower their nominals or raise the parent's",
    )


def _check_sums(policy: Policy, pool: str) -> None:
    """Shares of siblings within 100 %; within a parent of stated GPUs, all siblings within those."""
    stated = {node.path: node.nominal for node in policy.tree}
    for parent, siblings in children(policy).items():
        ratio = sum((node.nominal.ratio for node in siblings if isinstance(node.nominal, Share)), Fraction(0))
        if ratio > 1:
            raise _exceeds(parent, f"{float(ratio * 100):g}%", "100%", pool)
        gpus = stated.get(parent)
        if isinstance(gpus, int) and asked_gpus(gpus, siblings) > gpus:
            raise _exceeds(parent, f"{float(asked_gpus(gpus, siblings)):g} GPUs", f"{gpus} GPUs", pool)


def queues_of(policy: Policy) -> frozenset[str]:
    """Leaves of the tree."""
    parents = {node.parent for node in policy.tree}
    return frozenset(node.path for node in policy.tree if node.path not in parents)


def _check_moves(policy: Policy) -> None:
    """A move leads from a path that the tree no longer has to a queue that it has."""
    queues = queues_of(policy)
    for queue, successor in policy.moves.items():
        path = f"policy.moves.{queue}"
        if queue in {node.path for node in policy.tree}:
            raise bad(path, "still stands in the tree; a move is for a queue that was removed")
        if successor not in queues:
            raise bad(path, f'"{successor}" is no queue of the tree{read.nearest(successor, queues)}')
