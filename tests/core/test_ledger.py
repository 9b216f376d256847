"""The books of a grant balance after every entry, whatever happens in whatever order."""

from __future__ import annotations

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from quota.ledger import (
    LedgerError,
    Refusal,
    apply,
    check,
    claim,
    coverable,
    grant,
    project,
    refund,
    settle,
    used_device_seconds,
)
from quota.model import Account, Balance, Entry, EntryKind, GrantId

GRANT = GrantId(UUID(int=1))
OTHER = GrantId(UUID(int=2))


@pytest.mark.parametrize(
    ("gpus", "committed_ms", "ended_ms", "walltime_s", "used_s"),
    [
        (1, 0, 1_000, 60, 1),
        (8, 5_000, 15_000, 60, 80),
        (2, 0, 1, 60, 2),  # a begun second counts whole
        (2, 0, 1_001, 60, 4),
        (4, 0, 60_000, 60, 240),
        (4, 0, 60_001, 60, 240),  # never beyond the walltime
        (3, 10_000, 10_000, 60, 0),
        (3, 10_000, 9_000, 60, 0),  # clocks of two machines
    ],
)
def test_device_seconds_used(gpus, committed_ms, ended_ms, walltime_s, used_s):
    assert used_device_seconds(gpus, committed_ms, ended_ms, walltime_s) == used_s


@given(st.integers(1, 4096), st.integers(0, 10**13), st.integers(0, 10**13), st.integers(1, 10**7))
def test_use_is_never_above_the_claim(gpus, committed_ms, ended_ms, walltime_s):
    assert 0 <= used_device_seconds(gpus, committed_ms, ended_ms, walltime_s) <= gpus * walltime_s


def test_a_claim_is_covered_to_the_last_second():
    balance = apply(Balance(), grant(GRANT, 7_200))
    assert claim(balance, GRANT, "1-1", 7_201) == Refusal(7_201, 7_200, 0)
    entry = claim(balance, GRANT, "1-1", 7_200)
    assert entry == Entry(EntryKind.PENDING, GRANT, Account.AVAILABLE, Account.PENDING, 7_200, "1-1")
    assert claim(apply(balance, entry), GRANT, "2-1", 1) == Refusal(1, 0, 7_200)


def test_submission_counts_on_what_is_pending():
    held = Balance(granted_s=100, pending_s=60, used_s=10, remaining_s=30)
    assert coverable([Balance(), held], 90) is None
    assert coverable([held, Balance(granted_s=5, remaining_s=5)], 91) == Refusal(91, 30, 60)
    assert coverable([], 1) == Refusal(1, 0, 0)


@pytest.mark.parametrize(
    ("used_s", "kinds"),
    [
        (0, [(EntryKind.VOIDED, 60)]),
        (1, [(EntryKind.POSTED, 1), (EntryKind.VOIDED, 59)]),
        (60, [(EntryKind.POSTED, 60)]),
        (61, [(EntryKind.POSTED, 60)]),
    ],
)
def test_a_settlement_posts_what_was_used_and_voids_the_rest(used_s, kinds):
    entries = settle(GRANT, "1-1", 60, used_s)
    assert [(entry.kind, entry.amount_s) for entry in entries] == kinds
    assert {entry.attempt_id for entry in entries} == {"1-1"}
    balance = project([grant(GRANT, 100), claim(Balance(remaining_s=100), GRANT, "1-1", 60), *entries])
    assert balance == Balance(granted_s=100, used_s=min(used_s, 60), remaining_s=100 - min(used_s, 60))


MOVES = {
    (EntryKind.REVERSED, Account.USED, Account.AVAILABLE): Balance(granted_s=100, pending_s=20, used_s=25, remaining_s=55),
    (EntryKind.EXPIRED, Account.AVAILABLE, Account.EXPIRED): Balance(granted_s=100, pending_s=20, used_s=30, remaining_s=45, expired_s=5),
    (EntryKind.RETURNED, Account.AVAILABLE, Account.RETURNED): Balance(granted_s=100, pending_s=20, used_s=30, remaining_s=45, returned_s=5),
    (EntryKind.CLAWED_BACK, Account.AVAILABLE, Account.CLAWED_BACK): Balance(granted_s=100, pending_s=20, used_s=30, remaining_s=45, clawed_back_s=5),
    (EntryKind.ADJUSTED, Account.ADJUSTMENT, Account.AVAILABLE): Balance(granted_s=100, pending_s=20, used_s=30, remaining_s=55, adjusted_s=5),
    (EntryKind.ADJUSTED, Account.AVAILABLE, Account.ADJUSTMENT): Balance(granted_s=100, pending_s=20, used_s=30, remaining_s=45, adjusted_s=-5),
    (EntryKind.TRANSFERRED, Account.TRANSFER, Account.AVAILABLE): Balance(granted_s=100, pending_s=20, used_s=30, remaining_s=55, transferred_in_s=5),
    (EntryKind.TRANSFERRED, Account.AVAILABLE, Account.TRANSFER): Balance(granted_s=100, pending_s=20, used_s=30, remaining_s=45, transferred_out_s=5),
}  # fmt: skip


@pytest.mark.parametrize(("move", "after"), MOVES.items(), ids=str)
def test_every_other_kind_of_entry_balances_too(move, after):
    before = Balance(granted_s=100, pending_s=20, used_s=30, remaining_s=50)
    kind, debit, credit = move
    found = apply(before, Entry(kind, GRANT, debit, credit, 5))
    assert found == after
    assert check(found)


def test_books_that_do_not_balance_are_seen():
    assert not check(Balance(granted_s=100, remaining_s=99))
    assert not check(Balance(remaining_s=1))
    assert check(Balance())


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (Entry(EntryKind.GRANTED, GRANT, Account.AVAILABLE, Account.ALLOTMENT, 1), "does not move from"),
        (Entry(EntryKind.GRANTED, GRANT, Account.ALLOTMENT, Account.AVAILABLE, 0), "at least one"),
        (Entry(EntryKind.VOIDED, GRANT, Account.PENDING, Account.AVAILABLE, -1), "at least one"),
        (Entry(EntryKind.PENDING, GRANT, Account.AVAILABLE, Account.PENDING, 6), "remaining_s would be -1"),
        (Entry(EntryKind.POSTED, GRANT, Account.PENDING, Account.USED, 1), "pending_s would be -1"),
    ],
)
def test_an_entry_the_books_cannot_take_is_refused(entry, message):
    with pytest.raises(LedgerError, match=message) as caught:
        apply(Balance(granted_s=5, remaining_s=5), entry)
    assert caught.value.entry == entry


def test_a_refund_gives_back_what_was_used():
    entry = refund(GRANT, "1-1", 5)
    assert entry == Entry(EntryKind.REVERSED, GRANT, Account.USED, Account.AVAILABLE, 5, "1-1")
    with pytest.raises(LedgerError, match="reversed of 0"):
        refund(GRANT, "1-1", 0)


def test_amounts_are_real_and_books_are_of_one_grant():
    with pytest.raises(LedgerError, match="granted of 0"):
        grant(GRANT, 0)
    with pytest.raises(LedgerError, match="pending of 0"):
        claim(Balance(), GRANT, "1-1", 0)
    with pytest.raises(LedgerError, match="claims 0 s"):
        settle(GRANT, "1-1", 0, 0)
    with pytest.raises(LedgerError, match="used -1 s"):
        settle(GRANT, "1-1", 1, -1)
    with pytest.raises(LedgerError, match="hold an entry of another"):
        project([grant(GRANT, 1), grant(OTHER, 1)])
    assert project([]) == Balance()


class Books(RuleBasedStateMachine):
    """Grants, claims, refusals and settlements in any order; the projection follows the entries."""

    def __init__(self):
        super().__init__()
        self.entries = []
        self.balance = Balance()
        self.claims = {}
        self.attempts = 0
        self.used_s = 0
        self.granted_s = 0

    def post(self, *entries):
        for entry in entries:
            self.entries.append(entry)
            self.balance = apply(self.balance, entry)

    @rule(amount_s=st.integers(1, 10_000))
    def award(self, amount_s):
        self.granted_s += amount_s
        self.post(grant(GRANT, amount_s))

    @rule(amount_s=st.integers(1, 12_000))
    def start(self, amount_s):
        self.attempts += 1
        found = claim(self.balance, GRANT, f"{self.attempts}-1", amount_s)
        free_s = self.granted_s - self.used_s - sum(self.claims.values())
        if isinstance(found, Refusal):
            assert amount_s > free_s == found.remaining_s
        else:
            assert amount_s <= free_s
            self.claims[found.attempt_id] = amount_s
            self.post(found)

    @precondition(lambda self: self.claims)
    @rule(data=st.data(), used_s=st.integers(0, 15_000))
    def end(self, data, used_s):
        attempt = data.draw(st.sampled_from(sorted(self.claims)))
        claim_s = self.claims.pop(attempt)
        self.used_s += min(used_s, claim_s)
        self.post(*settle(GRANT, attempt, claim_s, used_s))

    @precondition(lambda self: self.used_s)
    @rule(data=st.data())
    def give_back(self, data):
        lost_s = data.draw(st.integers(1, self.used_s))
        self.used_s -= lost_s
        self.post(refund(GRANT, "1-1", lost_s))

    @invariant()
    def books_balance(self):
        assert check(self.balance)
        assert project(self.entries) == self.balance
        assert self.balance.used_s == self.used_s
        assert self.balance.pending_s == sum(self.claims.values())
        assert self.balance.remaining_s == self.granted_s - self.used_s - self.balance.pending_s >= 0


TestBooks = Books.TestCase
