"""The quota service: policies in force, grants, and the ledger's claims and charges, each in the caller's transaction.

A balance is a projection of the append-only entries; it changes in the entries' transaction under its row lock,
so that two claims on one grant are served one after the other and a database CHECK stands behind both.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final
from uuid import UUID, uuid4

from sqlalchemy import Engine, case, func, select
from sqlalchemy.orm import Session

from quota import ledger
from quota.enacted import (
    EnactedPolicy,
    NoPolicyError,
    PolicyExistsError,
    enact,
    in_force,
    policies,
    policy_in_force,
    policy_of_version,
)
from quota.model import (
    ENACTING_KINDS,
    Account,
    Balance,
    Entry,
    EntryKind,
    Grant,
    GrantId,
    Ground,
)
from quota.tables import BalanceRow, GrantRow, LedgerEntryRow
from quota.till import Settlement, Till, balance_of, columns_of, entry_row
from store import clock, journal
from store.engine import snapshot

__all__ = [
    "MAX_GRANTED_S",
    "Award",
    "AwardCode",
    "AwardRefusedError",
    "EnactedPolicy",
    "LedgerVerdict",
    "NoPolicyError",
    "PolicyExistsError",
    "Settlement",
    "Till",
    "award",
    "balances",
    "enact",
    "grants",
    "in_force",
    "open_claims",
    "policies",
    "policy_in_force",
    "policy_of_version",
    "verify",
]

MAX_GRANTED_S: Final = 1_000_000 * 10 * 366 * 86_400
"""Device-seconds of one grant at most: a million GPUs for ten years; above it is a slip of the pen."""


class AwardCode(StrEnum):
    """Why a grant is not awarded."""

    BAD_GRANT = "BAD_GRANT"
    NO_ENACTING_ACT = "NO_ENACTING_ACT"


class AwardRefusedError(ValueError):
    """A grant that cannot be awarded as asked."""

    def __init__(self, code: AwardCode, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True, kw_only=True)
class Award:
    """A grant to be made: device-seconds of a flavor for [starts_at, ends_at), on these grounds."""

    project_id: UUID
    flavor: str
    granted_s: int
    starts_at: datetime
    ends_at: datetime
    grounds: tuple[Ground, ...]


@dataclass(frozen=True, slots=True)
class LedgerVerdict:
    """Result of recomputing the ledger. `problems` is empty when every check held.

    `pending_by_attempt` are the claims that are neither posted nor voided, in device-seconds.
    """

    grants: int
    entries: int
    problems: tuple[str, ...]
    pending_by_attempt: Mapping[str, int]


def _check_award(award: Award) -> None:
    if not 1 <= award.granted_s <= MAX_GRANTED_S:
        raise AwardRefusedError(
            AwardCode.BAD_GRANT, f"granted_s is {award.granted_s}; it must be from 1 to {MAX_GRANTED_S}"
        )
    if award.ends_at <= award.starts_at:
        raise AwardRefusedError(
            AwardCode.BAD_GRANT,
            f"the grant would end {award.ends_at.isoformat()}, not after it starts; give it a later end",
        )
    if not any(ground.kind in ENACTING_KINDS for ground in award.grounds):
        raise AwardRefusedError(
            AwardCode.NO_ENACTING_ACT,
            "no ground of the grant enacts, a council only recommends; add an order or an officer's decision",
        )


def award(session: Session, asked: Award, *, at: datetime, actor: str) -> Grant:
    """Award device-seconds to a project; the journal gets the decision's digest, the table its text.

    Raises:
        AwardRefusedError: BAD_GRANT (amount, period) or NO_ENACTING_ACT.
    """
    _check_award(asked)
    grant_id = GrantId(uuid4())
    starts_ms, ends_ms = clock.to_ms(asked.starts_at), clock.to_ms(asked.ends_at)
    decision = {"grounds": [_ground_to_json(ground) for ground in asked.grounds]}
    entry = ledger.grant(grant_id, asked.granted_s)
    balance = ledger.apply(Balance(), entry)
    session.add(
        GrantRow(
            id=grant_id,
            project_id=asked.project_id,
            flavor=asked.flavor,
            granted_s=asked.granted_s,
            starts_at=clock.from_ms(starts_ms),
            ends_at=clock.from_ms(ends_ms),
            decision=decision,
            created_at=at,
        )
    )
    session.flush()
    session.add(BalanceRow(grant_id=grant_id, **columns_of(balance)))
    session.add(entry_row(entry, at))
    canonical = json.dumps(decision, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    data: dict[str, object] = {
        "project_id": str(asked.project_id),
        "flavor": asked.flavor,
        "granted_s": asked.granted_s,
        "starts_ms": starts_ms,
        "ends_ms": ends_ms,
        "decision_digest": hashlib.sha256(canonical.encode()).hexdigest(),
    }
    journal.append(session, "grant.awarded", f"grant:{grant_id}", actor=actor, at=at, data=data)
    session.flush()
    return Grant(grant_id, asked.project_id, asked.flavor, asked.granted_s, starts_ms, ends_ms, balance)


def _ground_to_json(ground: Ground) -> dict[str, object]:
    return {
        "kind": ground.kind.value,
        "body": ground.body,
        "number": ground.number,
        "date": ground.date.isoformat(),
        "digest": ground.digest,
    }


def grants(session: Session, project_ids: Iterable[UUID] | None = None) -> list[Grant]:
    """Return grants with balances, by id; of these projects, or all."""
    statement = select(GrantRow, BalanceRow).join(BalanceRow, BalanceRow.grant_id == GrantRow.id)
    if project_ids is not None:
        statement = statement.where(GrantRow.project_id.in_(list(project_ids)))
    return [
        Grant(
            GrantId(row.id),
            row.project_id,
            row.flavor,
            row.granted_s,
            clock.to_ms(row.starts_at),
            clock.to_ms(row.ends_at),
            balance_of(balance),
        )
        for row, balance in session.execute(statement.order_by(GrantRow.id))
    ]


def balances(session: Session, project_ids: Iterable[UUID]) -> list[Grant]:
    """Return the grants of these projects with their balances, by id."""
    return grants(session, project_ids)


def _entry(row: LedgerEntryRow) -> Entry:
    return Entry(
        EntryKind(row.kind),
        GrantId(row.grant_id),
        Account(row.debit),
        Account(row.credit),
        row.amount_s,
        row.attempt_id,
    )


def verify(engine: Engine) -> LedgerVerdict:
    """Recompute every balance from the entries and check the ledger's equation; one grant in memory at a time.

    Cost: O(entries).
    """
    problems: list[str] = []
    with snapshot(engine) as session:
        stored = {row.grant_id: balance_of(row) for row in session.scalars(select(BalanceRow))}
        for grant_id, balance in sorted(stored.items()):
            rows = session.scalars(
                select(LedgerEntryRow).where(LedgerEntryRow.grant_id == grant_id).order_by(LedgerEntryRow.id)
            )
            try:
                recomputed = ledger.project(map(_entry, rows))
            except ledger.LedgerError as error:
                problems.append(f"grant {grant_id}: {error}")
                continue
            if not ledger.check(balance):
                problems.append(f"grant {grant_id}: the books do not balance: {balance}")
            if recomputed != balance:
                problems.append(f"grant {grant_id}: entries give {recomputed}, the balance says {balance}")
        pending = open_claims(session)
        problems.extend(
            f"attempt {attempt_id}: {amount_s} device-seconds more settled than claimed"
            for attempt_id, amount_s in pending.items()
            if amount_s < 0
        )
        total_s = sum(balance.pending_s for balance in stored.values())
        if sum(pending.values()) != total_s:
            problems.append(f"open claims are {sum(pending.values())} device-seconds, balances say {total_s}")
        grants_without = session.scalars(
            select(GrantRow.id)
            .outerjoin(BalanceRow, BalanceRow.grant_id == GrantRow.id)
            .where(BalanceRow.grant_id.is_(None))
        ).all()
        problems.extend(f"grant {grant_id} has no balance" for grant_id in grants_without)
        entries = session.scalar(select(func.count()).select_from(LedgerEntryRow)) or 0
    return LedgerVerdict(len(stored), entries, tuple(problems), pending)


def open_claims(session: Session) -> dict[str, int]:
    """Device-seconds claimed minus posted minus voided, per attempt that is not settled. O(entries)."""
    signed = case(
        (LedgerEntryRow.kind == EntryKind.PENDING.value, LedgerEntryRow.amount_s),
        (
            LedgerEntryRow.kind.in_([EntryKind.POSTED.value, EntryKind.VOIDED.value]),
            -LedgerEntryRow.amount_s,
        ),
        else_=0,
    )
    total = func.sum(signed)
    rows = session.execute(
        select(LedgerEntryRow.attempt_id, total)
        .where(LedgerEntryRow.attempt_id.is_not(None))
        .group_by(LedgerEntryRow.attempt_id)
        .having(total != 0)
    )
    return {str(attempt_id): int(amount_s) for attempt_id, amount_s in rows}
