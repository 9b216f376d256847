"""Frozen values of the quota room: policy, tree, routes, grants, ledger.

Quantities of GPU time are integer raw device-seconds; shares are exact fractions, never floats.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date
from enum import StrEnum
from fractions import Fraction
from typing import NewType
from uuid import UUID

GrantId = NewType("GrantId", UUID)

ROOT = ""
"""Path of the root of the quota tree; its nominal is the capacity."""


class GroundKind(StrEnum):
    """What kind of act a policy or a grant rests on."""

    COUNCIL_PROTOCOL = "council-protocol"
    SECTOR_COUNCIL_PROTOCOL = "sector-council-protocol"
    ORDER = "order"
    OFFICER_DECISION = "officer-decision"


ENACTING_KINDS = frozenset({GroundKind.ORDER, GroundKind.OFFICER_DECISION})
"""Kinds that enact. Councils recommend only. Source: Presidential decree No 881 of 19 May 2025, section 4."""


@dataclass(frozen=True, slots=True)
class Ground:
    """One act a policy rests on. `digest` is the SHA-256 of the document (hex), where there is a file."""

    kind: GroundKind
    body: str
    number: str
    date: date
    digest: str | None = None


@dataclass(frozen=True, slots=True)
class Share:
    """A share of the parent's nominal, 0..1 as an exact fraction (written as a percentage in a policy)."""

    ratio: Fraction


Amount = int | Share
"""Whole GPUs, or a share of the parent's nominal."""


@dataclass(frozen=True, slots=True)
class SliceQuota:
    """What a node of the tree states for one flavor of slices; None = as it states for whole GPUs."""

    nominal: Amount | None = None
    borrowing_limit: Amount | None = None
    lending_limit: Amount | None = None
    weight: int | None = None


@dataclass(frozen=True, slots=True)
class QuotaNode:
    """A node of the quota tree as the policy writes it; a leaf is a queue.

    Args:
        path: names joined by "/", such as "science/universities"; ROOT is not listed.
        nominal: GPUs or share of the parent; None = the parent's by weight among such siblings.
        borrowing_limit: what may be borrowed beyond nominal; None = unlimited.
        lending_limit: how much of nominal may be lent; None = all of it.
        weight: for the division of the parent's nominal and for fair share; None = default.
        priority: higher goes first within the same class and usage.
        max_gpus_per_job: largest job the queue takes, in GPUs; None = no limit.
        default_walltime_s: given to a job that names none; None = the job must name one.
        max_walltime_s: longest walltime the queue takes; None = no limit.
        grace_s: notice a borrower of this queue gets before it is stopped.
        free_period_s: how long use is free of charge for a project; None = no such period.
        slices: what differs for flavors of slices, which are counted each by itself.
    """

    path: str
    nominal: Amount | None = None
    borrowing_limit: Amount | None = None
    lending_limit: Amount | None = None
    weight: int | None = None
    priority: int = 0
    max_gpus_per_job: int | None = None
    default_walltime_s: int | None = None
    max_walltime_s: int | None = None
    grace_s: int = 0
    free_period_s: int | None = None
    slices: tuple[tuple[str, SliceQuota], ...] = ()

    @property
    def parent(self) -> str:
        """Path of the parent; ROOT for a node of the first level."""
        return self.path.rpartition("/")[0]


@dataclass(frozen=True, slots=True)
class Route:
    """A rule that gives a project its queue; empty tuples match anything; first match wins.

    `sectors` may hold "*priority": any sector that the policy's tree has as a priority sector. "{sector}" in
    `queue` is replaced by the organisation's sector.
    """

    queue: str
    categories: tuple[str, ...] = ()
    sectors: tuple[str, ...] = ()
    programmes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Policy:
    """A quota policy in force from a date. The document as written is kept beside it with its digest.

    Args:
        start_reservations: R, so many waiting jobs hold a planned start.
        borrowed_reservations: so many of these at most for jobs that are not entitled when it is planned.
    """

    version: str
    effective_from: date
    grounds: tuple[Ground, ...]
    tree: tuple[QuotaNode, ...]
    routes: tuple[Route, ...]
    priority_sectors_year: int | None = None
    usage_half_life_s: int = 7 * 86_400
    usage_sampling_s: int = 3_600
    aging_full_after_s: int = 7 * 86_400
    start_reservations: int = 16
    borrowed_reservations: int = 1
    checkpoint_max_protected_s: int = 6 * 3_600
    checkpoint_refund_cap_s: int = 2 * 3_600
    fair_share_weights: dict[str, Fraction] = field(default_factory=dict)
    moves: dict[str, str] = field(default_factory=dict)
    topology: tuple[str, ...] = ()
    """Keys of the nodes' labels that are levels of the topology, the widest first."""


class Account(StrEnum):
    """Accounts of one grant's books (and the platform's overhead); every ledger entry moves between two."""

    ALLOTMENT = "allotment"
    AVAILABLE = "available"
    PENDING = "pending"
    USED = "used"
    EXPIRED = "expired"
    RETURNED = "returned"
    CLAWED_BACK = "clawed_back"
    ADJUSTMENT = "adjustment"
    TRANSFER = "transfer"


class EntryKind(StrEnum):
    """Why a ledger entry was written."""

    GRANTED = "granted"
    PENDING = "pending"
    POSTED = "posted"
    VOIDED = "voided"
    REVERSED = "reversed"
    EXPIRED = "expired"
    RETURNED = "returned"
    CLAWED_BACK = "clawed_back"
    ADJUSTED = "adjusted"
    TRANSFERRED = "transferred"


@dataclass(frozen=True, slots=True)
class Entry:
    """One ledger entry: `amount_s` device-seconds move from `debit` to `credit`; always positive."""

    kind: EntryKind
    grant_id: GrantId
    debit: Account
    credit: Account
    amount_s: int
    attempt_id: str | None = None


@dataclass(frozen=True, slots=True)
class Balance:
    """Balance of a grant in device-seconds; `remaining_s` is what new claims may take."""

    granted_s: int = 0
    pending_s: int = 0
    used_s: int = 0
    expired_s: int = 0
    returned_s: int = 0
    clawed_back_s: int = 0
    adjusted_s: int = 0
    transferred_in_s: int = 0
    transferred_out_s: int = 0
    remaining_s: int = 0


@dataclass(frozen=True, slots=True)
class Grant:
    """Device-seconds of a flavor awarded to a project for [starts_ms, ends_ms), by a decision."""

    id: GrantId
    project_id: UUID
    flavor: str
    granted_s: int
    starts_ms: int
    ends_ms: int
    balance: Balance
