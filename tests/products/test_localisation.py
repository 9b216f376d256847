"""Localisation share: worked cases of Order No 604, their edges and every refusal."""

from datetime import date
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from products import localisation
from products.localisation import (
    Books,
    Contract,
    Party,
    Payment,
    Period,
    Purpose,
    Rate,
    counts_as_foreign,
    foreign_year,
    localisation_share,
    percent,
    tenge,
)
from products.localisation_errors import (
    BadAmountError,
    ConflictingRateError,
    LocalisationError,
    MissingRateError,
    NotInForceError,
    PartyError,
    PeriodError,
    ZeroTotalError,
)

YEAR = Period(date(2026, 1, 1), date(2026, 12, 31))
PARTIES = (
    Party("kz", is_foreign=False),
    Party("abroad", is_foreign=True),
    Party("branch", is_foreign=False, controlled_by="abroad"),
    Party("agent", is_foreign=False, acts_for="branch"),
)
CONTRACTS = tuple(Contract(f"{party.id}-1", party.id) for party in PARTIES)


def paid(
    contract: str,
    amount: str,
    on: date = date(2026, 3, 2),
    currency: str = "KZT",
    purpose: Purpose = Purpose.DEVELOPMENT,
) -> Payment:
    return Payment(contract, on, Decimal(amount), currency, purpose)


def books(*payments: Payment, rates: tuple[Rate, ...] = ()) -> Books:
    return Books(PARTIES, CONTRACTS, payments, rates)


def test_controlled_parties_and_agents_count_as_foreign_however_far() -> None:
    assert counts_as_foreign(PARTIES) == {"kz": False, "abroad": True, "branch": True, "agent": True}


def test_a_long_chain_of_control_is_followed() -> None:
    length = 5_000
    chain = [Party("0", is_foreign=True)] + [
        Party(str(i), is_foreign=False, controlled_by=str(i - 1)) for i in range(1, length)
    ]
    assert all(counts_as_foreign(reversed(chain)).values())


def test_the_share_of_a_worked_case() -> None:
    share = localisation_share(
        books(
            paid("kz-1", "700000"),
            paid("branch-1", "50000"),
            paid("agent-1", "10000"),
            paid("abroad-1", "200", currency="USD"),
            rates=(Rate("USD", date(2026, 3, 2), Decimal("500.25")),),
        ),
        YEAR,
    )
    assert share.foreign_tenge == 50_000 + 10_000 + 100_050
    assert share.total_tenge == 860_050
    assert percent(share.ratio) == Decimal("81.39")
    assert share.is_reached


@pytest.mark.parametrize(
    ("foreign", "is_reached", "shown"),
    [("200000", True, "80.00"), ("200000.01", False, "79.99"), ("199999.99", True, "80.00")],
)
def test_the_threshold_is_compared_exactly_and_never_printed_when_missed(
    foreign: str, is_reached: bool, shown: str
) -> None:
    total = Decimal(1_000_000) - Decimal(foreign)
    share = localisation_share(books(paid("kz-1", str(total)), paid("abroad-1", foreign)), YEAR)
    assert share.is_reached is is_reached
    assert percent(share.ratio) == Decimal(shown)


def test_both_days_of_the_period_belong_to_it() -> None:
    edges = books(paid("kz-1", "1", YEAR.starts_on), paid("kz-1", "1", YEAR.ends_on))
    assert localisation_share(edges, YEAR).total_tenge == 2


@pytest.mark.parametrize("on", [date(2025, 12, 31), date(2027, 1, 1)])
def test_a_payment_outside_the_period_is_refused_by_name(on: date) -> None:
    with pytest.raises(PeriodError, match=f"kz-1 of {on}"):
        localisation_share(books(paid("kz-1", "1"), paid("kz-1", "1", on)), YEAR)


def test_a_period_that_ends_before_it_begins_is_refused() -> None:
    with pytest.raises(PeriodError, match="swap"):
        Period(date(2026, 2, 1), date(2026, 1, 31))
    assert Period(date(2026, 2, 1), date(2026, 2, 1)).ends_on == date(2026, 2, 1)


def test_nothing_paid_has_no_share() -> None:
    with pytest.raises(ZeroTotalError):
        localisation_share(books(), YEAR)
    with pytest.raises(ZeroTotalError):
        foreign_year(books(), date(2026, 5, 1))


def test_every_missing_rate_is_named_and_the_rate_of_another_day_does_not_serve() -> None:
    with pytest.raises(MissingRateError) as caught:
        localisation_share(
            books(
                paid("abroad-1", "1", currency="USD"),
                paid("abroad-1", "1", on=date(2026, 3, 3), currency="USD"),
                paid("kz-1", "1", currency="EUR"),
                rates=(Rate("USD", date(2026, 3, 2), Decimal(500)),),
            ),
            YEAR,
        )
    assert caught.value.missing == (("EUR", date(2026, 3, 2)), ("USD", date(2026, 3, 3)))


def test_an_error_names_a_few_and_counts_the_rest() -> None:
    payments = [paid("kz-1", "1", currency="USD", on=date(2026, 1, day)) for day in range(1, 10)]
    with pytest.raises(MissingRateError, match="and 4 more"):
        localisation_share(books(*payments), YEAR)


def test_two_rates_of_a_day_conflict_and_a_repeated_one_does_not() -> None:
    same = Rate("USD", date(2026, 3, 2), Decimal(500))
    payment = paid("kz-1", "1", currency="USD")
    assert localisation_share(books(payment, rates=(same, same)), YEAR).total_tenge == 500
    with pytest.raises(ConflictingRateError):
        localisation_share(books(payment, rates=(same, Rate("USD", date(2026, 3, 2), Decimal(501)))), YEAR)


@pytest.mark.parametrize("amount", ["0", "-1", "NaN", "Infinity"])
def test_an_amount_is_a_number_above_zero(amount: str) -> None:
    with pytest.raises(BadAmountError, match="kz-1"):
        localisation_share(books(paid("kz-1", amount)), YEAR)
    with pytest.raises(BadAmountError, match="rate of USD"):
        localisation_share(
            books(paid("kz-1", "1"), rates=(Rate("USD", date(2026, 3, 2), Decimal(amount)),)), YEAR
        )


@pytest.mark.parametrize("currency", ["usd", "US", "", "USDT"])
def test_a_currency_is_three_capital_letters(currency: str) -> None:
    with pytest.raises(BadAmountError, match="currency"):
        localisation_share(books(paid("kz-1", "1", currency=currency)), YEAR)


def test_the_number_of_payments_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(localisation, "MAX_PAYMENTS", 2)
    assert localisation_share(books(*[paid("kz-1", "1")] * 2), YEAR).total_tenge == 2
    with pytest.raises(BadAmountError, match="at most 2"):
        localisation_share(books(*[paid("kz-1", "1")] * 3), YEAR)


@pytest.mark.parametrize(
    ("parties", "contracts", "says"),
    [
        ((Party("a", is_foreign=False), Party("a", is_foreign=True)), (), "twice"),
        ((Party("a", is_foreign=False, controlled_by="b"),), (), "not entered"),
        ((Party("a", is_foreign=True, controlled_by="b"),), (), "not entered"),
        ((Party("a", is_foreign=False, controlled_by="a"),), (), "circle"),
        (
            (Party("a", is_foreign=False, controlled_by="b"), Party("b", is_foreign=False, acts_for="a")),
            (),
            "circle",
        ),
        ((Party("a", is_foreign=False),), (Contract("1", "a"), Contract("1", "a")), "twice"),
        ((Party("a", is_foreign=False),), (Contract("1", "z"),), "not entered"),
        ((Party("a", is_foreign=False),), (Contract("2", "a"),), "contract 1"),
    ],
)
def test_parties_and_contracts_must_hang_together(
    parties: tuple[Party, ...], contracts: tuple[Contract, ...], says: str
) -> None:
    with pytest.raises(PartyError, match=says):
        localisation_share(Books(parties, contracts, (paid("1", "1"),)), YEAR)


LAST_YEAR = date(2025, 6, 1)


def test_the_past_years_rule_takes_every_purpose_but_other() -> None:
    payments = [paid("abroad-1", "10", LAST_YEAR, purpose=purpose) for purpose in Purpose]
    verdict = foreign_year(books(paid("kz-1", "190", LAST_YEAR), *payments), date(2026, 5, 1))
    assert (verdict.year, verdict.foreign_tenge, verdict.total_tenge) == (2025, 50, 250)
    assert verdict.is_kept


def test_one_tiyn_above_twenty_percent_breaks_the_rule() -> None:
    verdict = foreign_year(
        books(paid("kz-1", "799999.99", LAST_YEAR), paid("agent-1", "200000.01", LAST_YEAR)), date(2026, 1, 1)
    )
    assert not verdict.is_kept
    assert verdict.ratio > Fraction(1, 5)


@pytest.mark.parametrize("on", [date(2024, 12, 31), date(2026, 1, 1)])
def test_a_payment_of_another_year_is_refused(on: date) -> None:
    with pytest.raises(PeriodError, match="2025 only"):
        foreign_year(books(paid("kz-1", "1", on)), date(2026, 5, 1))


def test_the_rule_does_not_reach_back_before_it_came_into_force() -> None:
    with pytest.raises(NotInForceError):
        foreign_year(books(paid("kz-1", "1", LAST_YEAR)), date(2025, 12, 31))


@given(
    st.lists(
        st.tuples(st.sampled_from(["kz-1", "abroad-1", "branch-1"]), st.decimals("0.01", 10**9, places=2)),
        min_size=1,
        max_size=30,
    ),
    st.randoms(use_true_random=False),
)
def test_a_share_lies_between_0_and_1_and_no_order_of_rows_changes_it(rows, random) -> None:
    payments = [paid(contract, str(amount)) for contract, amount in rows]
    share = localisation_share(books(*payments), YEAR)
    random.shuffle(payments)
    assert localisation_share(books(*payments), YEAR) == share
    assert 0 <= share.ratio <= 1
    assert share.foreign_tenge == share.total_tenge - sum(
        Fraction(amount) for contract, amount in rows if contract == "kz-1"
    )


def test_tenge_are_printed_to_the_tiyn() -> None:
    assert tenge(Fraction(1, 3)) == Decimal("0.33")
    assert tenge(Fraction(1, 8)) == Decimal("0.12")
    assert issubclass(ZeroTotalError, LocalisationError)
