from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tenants.identifiers import IdentifierError, check_bin, check_iin, control_digit, mask_iin

digits = st.text("0123456789", min_size=11, max_size=11)


@pytest.mark.parametrize("number", ["940240005121", "070940008436", "230340029580", "250640017016"])
def test_a_right_bin_is_taken(number: str) -> None:
    assert check_bin(number) == number


@pytest.mark.parametrize(
    ("first", "digit"),
    [
        ("10000000000", 1),  # 1 x 1
        ("00000000001", 0),  # 11 x 1, modulo 11
        ("00000000010", 1),  # the first row gives 10 x 1 = 10, so the second: 1 x 1
        ("94024000512", 1),  # a real one, above
    ],
)
def test_the_control_digit_by_hand(first: str, digit: int) -> None:
    assert control_digit(first) == digit


def test_ten_twice_is_no_number() -> None:
    # d3=1, d10=7 and so on are searched rather than written: the first such number proves the rule.
    weights = (range(1, 12), (3, 4, 5, 6, 7, 8, 9, 10, 11, 1, 2))
    for n in range(100_000):
        first = f"{n:011d}"
        if all(sum(w * int(d) for w, d in zip(row, first, strict=True)) % 11 == 10 for row in weights):
            assert control_digit(first) is None
            return
    raise AssertionError("no such number below 100,000")


@pytest.mark.parametrize(
    ("number", "word"),
    [
        ("", "12 digits"),
        ("94024000512", "12 digits"),
        ("9402400051211", "12 digits"),
        ("94024000512x", "12 digits"),
        ("٩٤٠٢٤٠٠٠٥١٢١", "12 digits"),
        ("941340005121", "month"),
        ("940040005121", "month"),
        ("940230005121", "5th digit"),
        ("940270005121", "5th digit"),
        ("940240005122", "control digit"),
    ],
)
def test_a_wrong_bin_is_told_apart(number: str, word: str) -> None:
    with pytest.raises(IdentifierError, match=word) as error:
        check_bin(number)
    assert len(number) < 12 or number not in str(error.value)


def iin(first: str) -> str:
    digit = control_digit(first)
    assume(digit is not None)
    return f"{first}{digit}"


@given(st.dates(), st.sampled_from("0123456"), st.integers(0, 9999))
def test_an_iin_begins_with_a_date_and_a_century(day: object, century: str, serial: int) -> None:
    first = f"{day:%y%m%d}{century}{serial:04d}"
    years = {"0": 2000, "1": 1800, "2": 1800, "3": 1900, "4": 1900, "5": 2000, "6": 2000}
    is_leap_day_elsewhere = first[2:6] == "0229" and int(first[:2]) == 0 and years[century] in (1800, 1900)
    assume(not is_leap_day_elsewhere)
    number = iin(first)
    assert check_iin(number) == number


@pytest.mark.parametrize(
    ("first", "word"),
    [("99013170000", "7th digit"), ("99023030000", "date"), ("99130130000", "date"), ("01022930000", "date")],
)
def test_a_wrong_iin_is_told_apart(first: str, word: str) -> None:
    with pytest.raises(IdentifierError, match=word):
        check_iin(first + str(control_digit(first) or 0))


@pytest.mark.parametrize("number", ["800101300016", "000229500018", "991231000014"])
def test_a_right_iin_is_taken(number: str) -> None:
    assert check_iin(number) == number


def test_a_masked_iin_shows_its_last_two_digits_and_what_is_none_nothing() -> None:
    assert [mask_iin(number) for number in ("800101300016", "80010130001", "")] == [
        "**********16",
        "*" * 11,
        "",
    ]


@given(digits, st.integers(0, 9), st.integers(1, 9))
def test_one_mistyped_digit_of_the_first_ten_is_seen(first: str, place: int, change: int) -> None:
    number = iin(first)
    wrong = first[:place] + str((int(first[place]) + change) % 10) + first[place + 1 :]
    # The first row sees every single error of these: its weights 1..10 are prime to 11, the 11th digit's is not.
    # Where either number needs the second row it may not.
    sums = [sum(w * int(d) for w, d in enumerate(text, 1)) % 11 for text in (first, wrong)]
    assume(10 not in sums)
    assert control_digit(wrong) != int(number[-1])


@given(digits)
def test_a_masked_iin_shows_two_digits(first: str) -> None:
    number = first + "0"
    assert mask_iin(number) == "**********" + number[-2:]
    assert mask_iin("12345") == "*****"


def test_a_number_without_a_control_digit_cannot_exist() -> None:
    assert control_digit("94024000021") is None
    with pytest.raises(IdentifierError, match="both control sums are 10"):
        check_bin("940240000210")
