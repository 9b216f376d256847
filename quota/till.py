"""Several claims, charges and refunds of one transaction: balances are locked together and written once."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sqlalchemy import Row, select
from sqlalchemy.orm import Session

from quota import ledger
from quota.model import Balance, Entry, EntryKind, GrantId
from quota.tables import BalanceRow, LedgerEntryRow
from store import journal
from store.bulk import insert_all, plain
from store.rewrite import update_all

KIND_OF_ENTRY: Final = {
    EntryKind.PENDING: "ledger.pending",
    EntryKind.POSTED: "ledger.posted",
    EntryKind.VOIDED: "ledger.voided",
    EntryKind.REVERSED: "ledger.reversed",
}
"""The record of each kind of entry."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settlement:
    """An attempt's end in the ledger: of `claim_s` claimed, min(`used_s`, `claim_s`) is charged."""

    grant_id: GrantId
    attempt_id: str
    claim_s: int
    used_s: int


def balance_of(row: BalanceRow | Row[tuple[object, ...]]) -> Balance:
    """The balance that a row projects."""
    return Balance(**{name: getattr(row, name) for name in Balance.__dataclass_fields__})


def columns_of(balance: Balance) -> dict[str, int]:
    """The columns of a balance."""
    return {name: getattr(balance, name) for name in Balance.__dataclass_fields__}


def entry_row(entry: Entry, at: datetime) -> LedgerEntryRow:
    """The row of an entry."""
    return LedgerEntryRow(**_values(entry, at))


def _values(entry: Entry, at: datetime) -> dict[str, object]:
    return {
        "at": at,
        "grant_id": entry.grant_id,
        "kind": entry.kind.value,
        "debit": entry.debit.value,
        "credit": entry.credit.value,
        "amount_s": entry.amount_s,
        "attempt_id": entry.attempt_id,
    }


class Till:
    """Grants under lock, and what is entered for them until `close`.

    Locks are taken in the order of the grants' ids, so that transactions side by side wait and never deadlock.

    Args:
        session: the open unit of work.
        grants: every grant that will be asked for.
        at: instant of the entries.
        actor: as the journal names actors.
    """

    def __init__(self, session: Session, grants: Collection[GrantId], *, at: datetime, actor: str) -> None:
        self._session: Final = session
        self._at: Final = at
        self._actor: Final = actor
        self._entries: Final[list[Entry]] = []
        locked = (
            select(*BalanceRow.__table__.columns)
            .where(BalanceRow.grant_id.in_(sorted(grants)))
            .order_by(BalanceRow.grant_id)
            .with_for_update()
        )
        session.flush()
        rows = session.execute(locked).all() if grants else ()
        self._balances: Final = {GrantId(row.grant_id): balance_of(row) for row in rows}

    def claim(self, grant_id: GrantId, attempt_id: str, amount_s: int) -> Entry | ledger.Refusal:
        """Claim device-seconds for an attempt; a refusal enters nothing."""
        found = ledger.claim(self._balances[grant_id], grant_id, attempt_id, amount_s)
        if isinstance(found, Entry):
            self._enter(found)
        return found

    def settle(self, settlement: Settlement) -> tuple[Entry, ...]:
        """Post what an attempt used and void the rest of its claim."""
        entries = ledger.settle(
            settlement.grant_id, settlement.attempt_id, settlement.claim_s, settlement.used_s
        )
        for entry in entries:
            self._enter(entry)
        return entries

    def refund(self, grant_id: GrantId, attempt_id: str, amount_s: int) -> Entry:
        """Reverse device-seconds that an attempt was charged."""
        entry = ledger.refund(grant_id, attempt_id, amount_s)
        self._enter(entry)
        return entry

    def _enter(self, entry: Entry) -> None:
        self._balances[entry.grant_id] = ledger.apply(self._balances[entry.grant_id], entry)
        self._entries.append(entry)
        data: dict[str, object] = {"attempt_id": entry.attempt_id or "", "amount_s": entry.amount_s}
        journal.append(
            self._session,
            KIND_OF_ENTRY[entry.kind],
            f"grant:{entry.grant_id}",
            actor=self._actor,
            at=self._at,
            data=data,
        )

    def close(self) -> None:
        """Write the entries and the balances that they changed."""
        insert_all(
            self._session, [plain(LedgerEntryRow, **_values(entry, self._at)) for entry in self._entries]
        )
        grants = {entry.grant_id for entry in self._entries}
        changed = {grant_id: columns_of(self._balances[grant_id]) for grant_id in sorted(grants)}
        update_all(
            self._session,
            BalanceRow,
            [({"grant_id": grant_id, **columns}, columns.keys()) for grant_id, columns in changed.items()],
        )
        self._entries.clear()
