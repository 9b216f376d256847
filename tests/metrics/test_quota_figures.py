"""Entitlement and its violation, by their definitions."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metrics.quota_figures import QueueClaim, entitled_waiting, violated


@pytest.mark.parametrize(
    ("nominal", "held", "waiting", "expected"),
    [
        (8, 0, (), 0),
        (8, 0, (4, 4), 8),
        (8, 2, (4, 4), 4),
        (8, 2, (7, 4, 2), 6),  # the first is larger than what is left and is passed over
        (8, 8, (1,), 0),
        (8, 12, (1,), 0),  # the queue borrows itself
        (0, 0, (1,), 0),  # a queue of surplus only is entitled to nothing
    ],
)
def test_waiting_jobs_fit_in_what_the_nominal_leaves(
    nominal: int, held: int, waiting: tuple[int, ...], expected: int
) -> None:
    assert entitled_waiting(nominal, held, waiting) == expected


def test_what_others_hold_beyond_their_own_is_a_violation() -> None:
    claims = {
        "borrower": QueueClaim(4, 7),
        "wants-little": QueueClaim(8, 6, 2),
        "wants-more": QueueClaim(8, 2, 6),
        "content": QueueClaim(4, 4),
    }
    assert violated(claims) == {"borrower": 0, "wants-little": 2, "wants-more": 3, "content": 0}


def test_a_queue_does_not_violate_itself() -> None:
    assert violated({"one": QueueClaim(4, 9), "two": QueueClaim(4, 4)}) == {"one": 0, "two": 0}


@given(
    st.dictionaries(
        st.text("abc", min_size=1, max_size=3),
        st.builds(
            QueueClaim,
            nominal=st.integers(0, 64),
            held=st.integers(0, 64),
            entitled_waiting=st.integers(0, 64),
        ),
        max_size=6,
    )
)
def test_no_violation_without_a_wish_or_without_a_borrower(claims: dict[str, QueueClaim]) -> None:
    found = violated(claims)
    for queue, claim in claims.items():
        assert 0 <= found[queue] <= claim.entitled_waiting
        if all(other.held <= other.nominal for name, other in claims.items() if name != queue):
            assert found[queue] == 0
