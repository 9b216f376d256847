from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from products.indicator import TARGETS, YearWithoutTargetError, held_since, indicator_2
from products.model import Candidate, ProductId, ProductStatus

VERIFIED, SUBMITTED, RETURNED = ProductStatus.VERIFIED, ProductStatus.SUBMITTED, ProductStatus.RETURNED
MAY = datetime(2026, 5, 1, tzinfo=UTC)
EVE = datetime(2026, 12, 31, 18, 59, 59, tzinfo=UTC)  # 23:59:59 in Almaty
NEW_YEAR = datetime(2026, 12, 31, 19, tzinfo=UTC)
LATER = datetime(2030, 1, 1, tzinfo=UTC)


def candidate(
    n: int, status: ProductStatus, verified_at: datetime | None, evidence_at: datetime | None
) -> Candidate:
    return Candidate(ProductId(UUID(int=n)), f"p{n}", status, verified_at, evidence_at)


def test_the_targets_are_the_concepts() -> None:
    assert TARGETS == {2025: 5, 2026: 10, 2027: 15, 2028: 20, 2029: 25}


@pytest.mark.parametrize(
    ("status", "verified_at", "evidence_at", "held"),
    [
        (VERIFIED, MAY, EVE, EVE),
        (VERIFIED, EVE, MAY, EVE),
        (VERIFIED, MAY, None, None),
        (VERIFIED, None, MAY, None),
        (SUBMITTED, None, MAY, None),
        (RETURNED, MAY, MAY, None),
    ],
)
def test_a_product_counts_from_the_moment_all_holds(
    status: ProductStatus, verified_at: datetime | None, evidence_at: datetime | None, held: datetime | None
) -> None:
    assert held_since(candidate(1, status, verified_at, evidence_at)) == held


def test_a_year_ends_in_almaty() -> None:
    products = [candidate(1, VERIFIED, MAY, EVE), candidate(2, VERIFIED, MAY, NEW_YEAR)]
    of_2026, of_2027 = (indicator_2(products, year, LATER) for year in (2026, 2027))
    assert (of_2026.added, of_2026.cumulative, of_2026.target) == (1, 1, 10)
    assert (of_2027.added, of_2027.cumulative, of_2027.target) == (1, 2, 15)
    assert [each.slug for each in of_2027.counted] == ["p1", "p2"]


def test_a_year_that_has_not_begun_has_no_figure() -> None:
    product = [candidate(1, VERIFIED, MAY, MAY)]
    before, after = (indicator_2(product, 2027, at) for at in (EVE, NEW_YEAR))
    assert (before.added, before.cumulative, before.counted) == (None, None, ())
    assert (after.added, after.cumulative) == (0, 1)


def test_what_happened_later_does_not_count_yet() -> None:
    products = [
        candidate(1, VERIFIED, NEW_YEAR, MAY),
        candidate(2, VERIFIED, MAY, NEW_YEAR),
        candidate(3, SUBMITTED, None, None),
    ]
    found = indicator_2(products, 2026, EVE)
    assert (found.cumulative, found.unverified, found.without_evidence) == (0, 2, 1)


@pytest.mark.parametrize("year", [2024, 2030, 0, -1])
def test_a_year_without_a_target_is_an_error(year: int) -> None:
    with pytest.raises(YearWithoutTargetError, match="2025 to 2029"):
        indicator_2([], year, LATER)


instants = st.datetimes(datetime(2024, 1, 1), datetime(2031, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001 - the strategy adds the zone


@given(
    st.lists(
        st.tuples(st.sampled_from(ProductStatus), st.none() | instants, st.none() | instants), max_size=12
    ),
    instants,
)
def test_years_add_up_and_every_product_is_told(
    rows: list[tuple[ProductStatus, datetime | None, datetime | None]], as_of: datetime
) -> None:
    products = [candidate(n, *row) for n, row in enumerate(rows)]
    years = [indicator_2(products, year, as_of) for year in TARGETS]
    begun = [year for year in years if year.cumulative is not None]
    for before, after in itertools.pairwise(begun):
        assert after.cumulative == (before.cumulative or 0) + (after.added or 0)
    assert len({(year.unverified, year.without_evidence) for year in years}) == 1
    last = years[-1]
    if begun == years:
        told = len(last.counted) + last.unverified + last.without_evidence
        beyond = sum(
            held is not None and held <= as_of and (held + timedelta(hours=5)).year > 2029
            for held in map(held_since, products)
        )
        assert told + beyond == len(products)
