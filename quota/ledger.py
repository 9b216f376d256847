"""The ledger of GPU time: double entry in integer raw device-seconds, one set of accounts per grant.

Entries are only ever added; a balance is their sum. Rates never enter: they serve fair share and tariffs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from quota.frozen import replace
from quota.model import Account, Balance, Entry, EntryKind, GrantId

MS_PER_S: Final = 1_000
"""Milliseconds of a second."""


class LedgerError(ValueError):
    """An entry that the books cannot take: a broken rule of whoever wrote it.

    Args:
        message: what is wrong with it.
        entry: the entry, where there is one.
    """

    def __init__(self, message: str, entry: Entry | None = None) -> None:
        super().__init__(message if entry is None else f"{message}; the entry: {entry}")
        self.entry = entry


@dataclass(frozen=True, slots=True)
class Refusal:
    """A claim larger than what remains, in device-seconds; `pending_s` may come back."""

    claim_s: int
    remaining_s: int
    pending_s: int


def grant(grant_id: GrantId, amount_s: int) -> Entry:
    """The award itself: the first entry of a grant's books.

    Raises:
        LedgerError: an amount below 1.
    """
    return _entry(EntryKind.GRANTED, grant_id, amount_s, None)


def claim(balance: Balance, grant_id: GrantId, attempt_id: str, amount_s: int) -> Entry | Refusal:
    """Hold an attempt's claim (GPUs x walltime), or say how much is missing.

    Raises:
        LedgerError: an amount below 1.
    """
    if amount_s > balance.remaining_s:
        return Refusal(amount_s, balance.remaining_s, balance.pending_s)
    return _entry(EntryKind.PENDING, grant_id, amount_s, attempt_id)


def coverable(balances: Iterable[Balance], amount_s: int) -> Refusal | None:
    """Whether one of the balances could ever cover a claim, should all that is pending come back.

    Submission refuses what no balance could; a claim that only waits for others to end is accepted.

    Returns:
        None when one could, else the figures of the one that comes nearest (zeros when there is none).
    """
    nearest = max(balances, key=lambda found: found.remaining_s + found.pending_s, default=Balance())
    if amount_s <= nearest.remaining_s + nearest.pending_s:
        return None
    return Refusal(amount_s, nearest.remaining_s, nearest.pending_s)


def settle(grant_id: GrantId, attempt_id: str, claim_s: int, used_s: int) -> tuple[Entry, ...]:
    """End an attempt's claim: post what was used, at most the claim, and void the rest; no entry of 0.

    Raises:
        LedgerError: a claim below 1 or a negative use.
    """
    if claim_s < 1 or used_s < 0:
        raise LedgerError(f"attempt {attempt_id} claims {claim_s} s and used {used_s} s; both must be real")
    posted_s = min(used_s, claim_s)
    parts = ((EntryKind.POSTED, posted_s), (EntryKind.VOIDED, claim_s - posted_s))
    return tuple(_entry(kind, grant_id, amount_s, attempt_id) for kind, amount_s in parts if amount_s)


def refund(grant_id: GrantId, attempt_id: str, amount_s: int) -> Entry:
    """Reverse a part of what an attempt was charged: work that the platform itself made it lose.

    Raises:
        LedgerError: an amount below 1.
    """
    return _entry(EntryKind.REVERSED, grant_id, amount_s, attempt_id)


def used_device_seconds(gpus: int, committed_ms: int, ended_ms: int, walltime_s: int) -> int:
    """Device-seconds an attempt is charged: GPUs x whole seconds, a begun second counting whole.

    From the agent's commit to min(end, start + walltime); an end before the commit (skewed clocks) is 0.
    Source: Slurm's GPU accounting (allocated time, sacct(1) `AllocTRES` x `Elapsed`), with launch, grace and
    clean-up left to the platform's overhead.
    """
    elapsed_ms = min(max(0, ended_ms - committed_ms), walltime_s * MS_PER_S)
    return gpus * -(-elapsed_ms // MS_PER_S)


_MOVES: Final[Mapping[tuple[EntryKind, Account, Account], Mapping[str, int]]] = {
    (EntryKind.GRANTED, Account.ALLOTMENT, Account.AVAILABLE): {"granted_s": 1, "remaining_s": 1},
    (EntryKind.PENDING, Account.AVAILABLE, Account.PENDING): {"remaining_s": -1, "pending_s": 1},
    (EntryKind.POSTED, Account.PENDING, Account.USED): {"pending_s": -1, "used_s": 1},
    (EntryKind.VOIDED, Account.PENDING, Account.AVAILABLE): {"pending_s": -1, "remaining_s": 1},
    (EntryKind.REVERSED, Account.USED, Account.AVAILABLE): {"used_s": -1, "remaining_s": 1},
    (EntryKind.EXPIRED, Account.AVAILABLE, Account.EXPIRED): {"remaining_s": -1, "expired_s": 1},
    (EntryKind.RETURNED, Account.AVAILABLE, Account.RETURNED): {"remaining_s": -1, "returned_s": 1},
    (EntryKind.CLAWED_BACK, Account.AVAILABLE, Account.CLAWED_BACK): {"remaining_s": -1, "clawed_back_s": 1},
    (EntryKind.ADJUSTED, Account.ADJUSTMENT, Account.AVAILABLE): {"adjusted_s": 1, "remaining_s": 1},
    (EntryKind.ADJUSTED, Account.AVAILABLE, Account.ADJUSTMENT): {"adjusted_s": -1, "remaining_s": -1},
    (EntryKind.TRANSFERRED, Account.TRANSFER, Account.AVAILABLE): {"transferred_in_s": 1, "remaining_s": 1},
    (EntryKind.TRANSFERRED, Account.AVAILABLE, Account.TRANSFER): {"transferred_out_s": 1, "remaining_s": -1},
}
"""What one device-second of each kind of entry does to a balance; no other entry exists."""

_ACCOUNTS: Final = {kind: (debit, credit) for kind, debit, credit in _MOVES}


def apply(balance: Balance, entry: Entry) -> Balance:
    """The balance after one more entry.

    Raises:
        LedgerError: an amount below 1, accounts that its kind does not move between, or an account that would
            go below 0.
    """
    move = _MOVES.get((entry.kind, entry.debit, entry.credit))
    if move is None:
        raise LedgerError(f"{entry.kind} does not move from {entry.debit} to {entry.credit}", entry)
    if entry.amount_s < 1:
        raise LedgerError("an entry moves at least one device-second", entry)
    after = {name: getattr(balance, name) + sign * entry.amount_s for name, sign in move.items()}
    for name, amount_s in after.items():
        if amount_s < 0 and name != "adjusted_s":  # an adjustment may take away
            raise LedgerError(f"{name} would be {amount_s}", entry)
    return replace(balance, **after)


def project(entries: Iterable[Entry]) -> Balance:
    """The balance of one grant, recomputed from its entries in the order they were written.

    Raises:
        LedgerError: entries of two grants, or one that `apply` refuses.
    """
    balance = Balance()
    grant_id: GrantId | None = None
    for entry in entries:
        if grant_id not in {None, entry.grant_id}:
            raise LedgerError(f"the books of grant {grant_id} hold an entry of another", entry)
        grant_id = entry.grant_id
        balance = apply(balance, entry)
    return balance


def check(balance: Balance) -> bool:
    """Whether the books balance: what came in is exactly what was used, is held, left or remains."""
    came_in_s = balance.granted_s + balance.transferred_in_s + balance.adjusted_s
    went_s = (
        balance.used_s
        + balance.pending_s
        + balance.expired_s
        + balance.returned_s
        + balance.clawed_back_s
        + balance.transferred_out_s
        + balance.remaining_s
    )
    return came_in_s == went_s


def _entry(kind: EntryKind, grant_id: GrantId, amount_s: int, attempt_id: str | None) -> Entry:
    """An entry between the accounts of its kind."""
    if amount_s < 1:
        raise LedgerError(f"{kind} of {amount_s} device-seconds; an entry moves at least one")
    debit, credit = _ACCOUNTS[kind]
    return Entry(kind, grant_id, debit, credit, amount_s, attempt_id)
