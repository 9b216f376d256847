"""Grants and balances from the journal alone; pure: records in, books out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Final
from uuid import UUID

from quota import ledger
from quota.model import Account, Balance, Entry, EntryKind, Grant, GrantId

GRANTS_REMEMBERED: Final = 4_096
"""Grants whose ids are not read anew in each record: 1 MB, and more than one cluster has in a year."""

_MOVE_OF_KIND: Final = {
    "ledger.pending": (EntryKind.PENDING, Account.AVAILABLE, Account.PENDING),
    "ledger.posted": (EntryKind.POSTED, Account.PENDING, Account.USED),
    "ledger.voided": (EntryKind.VOIDED, Account.PENDING, Account.AVAILABLE),
    "ledger.reversed": (EntryKind.REVERSED, Account.USED, Account.AVAILABLE),
}


@lru_cache(GRANTS_REMEMBERED)
def grant_of(subject: str) -> GrantId:
    """The grant that a record is about, as "grant:<uuid>"."""
    return GrantId(UUID(subject.removeprefix("grant:")))


@dataclass(slots=True)
class Books:
    """Working state of a fold: each grant with its balance."""

    grants: dict[GrantId, Grant] = field(default_factory=dict)

    def take(self, kind: str, subject: str, data: Mapping[str, object]) -> None:
        """Take one record; those of other rooms change nothing.

        Raises:
            LedgerError: the record cannot follow those before it.
        """
        if kind == "grant.awarded":
            self._award(grant_of(subject), data)
        elif kind in _MOVE_OF_KIND:
            self._enter(kind, grant_of(subject), data)

    def flavor(self, grant_id: str) -> str:
        """Flavor of a grant that was awarded.

        Raises:
            KeyError: there is no record of it.
        """
        return self.grants[GrantId(UUID(grant_id))].flavor

    def _award(self, grant_id: GrantId, data: Mapping[str, object]) -> None:
        granted_s = _integer(data["granted_s"])
        balance = ledger.apply(Balance(), ledger.grant(grant_id, granted_s))
        self.grants[grant_id] = Grant(
            id=grant_id,
            project_id=UUID(str(data["project_id"])),
            flavor=str(data["flavor"]),
            granted_s=granted_s,
            starts_ms=_integer(data["starts_ms"]),
            ends_ms=_integer(data["ends_ms"]),
            balance=balance,
        )

    def _enter(self, kind: str, grant_id: GrantId, data: Mapping[str, object]) -> None:
        grant = self.grants[grant_id]
        move, debit, credit = _MOVE_OF_KIND[kind]
        entry = Entry(move, grant_id, debit, credit, _integer(data["amount_s"]), str(data["attempt_id"]))
        self.grants[grant_id] = replace(grant, balance=ledger.apply(grant.balance, entry))


def _integer(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ledger.LedgerError(f"expected whole device-seconds or milliseconds, found {value!r}")
    return value
