"""BIN and IIN: the identification numbers of legal and natural persons, with their control digit.

Source: the numbers' form in force in the Republic of Kazakhstan (12 digits, two rows of weights modulo 11).
"""

from __future__ import annotations

from datetime import date
from typing import Final

LENGTH: Final = 12
"""Digits of a BIN and of an IIN."""

_WEIGHTS: Final = (
    (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11),
    (3, 4, 5, 6, 7, 8, 9, 10, 11, 1, 2),
)
_MODULUS: Final = 11
_NO_DIGIT: Final = 10
_MONTHS: Final = 12
_BIN_KINDS: Final = frozenset("456")  # resident, non-resident, joint individual entrepreneurship
_CENTURIES: Final = {"1": 1800, "2": 1800, "3": 1900, "4": 1900, "5": 2000, "6": 2000}
_SHOWN_DIGITS: Final = 2


class IdentifierError(ValueError):
    """A number that is no BIN or IIN. The message never repeats the number: it may be personal data.

    Args:
        kind: "BIN" or "IIN".
        why: what is wrong and what to check.
    """

    def __init__(self, kind: str, why: str) -> None:
        super().__init__(f"the {kind} {why}")
        self.kind = kind
        self.why = why


def control_digit(digits: str) -> int | None:
    """The control digit of the first 11 digits; None when both rows of weights give 10 and no number exists."""
    for weights in _WEIGHTS:
        rest = sum(weight * int(digit) for weight, digit in zip(weights, digits[:11], strict=True)) % _MODULUS
        if rest != _NO_DIGIT:
            return rest
    return None


def check_bin(number: str) -> str:
    """Return the number if it is a BIN.

    Raises:
        IdentifierError: length, month, kind of entity (5th digit: 4, 5 or 6) or control digit is wrong.
    """
    _check_digits("BIN", number)
    if not 1 <= int(number[2:4]) <= _MONTHS:
        raise IdentifierError(
            "BIN", f"has {number[2:4]} where the month of registration stands; check digits 3-4"
        )
    if number[4] not in _BIN_KINDS:
        raise IdentifierError(
            "BIN", f"has {number[4]} as its 5th digit; a legal person has 4 or 5, joint entrepreneurs have 6"
        )
    _check_control("BIN", number)
    return number


def check_iin(number: str) -> str:
    """Return the number if it is an IIN.

    Raises:
        IdentifierError: length, date of birth, century digit (7th: 0 to 6) or control digit is wrong.
    """
    _check_digits("IIN", number)
    mark = number[6]
    if mark != "0" and mark not in _CENTURIES:
        raise IdentifierError("IIN", "has a 7th digit other than 0 to 6 (century and sex); check it")
    # A foreigner's number (0) states no century: 2000 is a leap year, so no possible date is refused.
    century = _CENTURIES.get(mark, 2000)
    try:
        date(century + int(number[:2]), int(number[2:4]), int(number[4:6]))
    except ValueError:
        raise IdentifierError("IIN", "does not begin with a date of birth YYMMDD; check digits 1-6") from None
    _check_control("IIN", number)
    return number


def mask_iin(number: str) -> str:
    """The number with all but its last two digits hidden; anything shorter is hidden whole."""
    if len(number) != LENGTH:
        return "*" * len(number)
    return "*" * (LENGTH - _SHOWN_DIGITS) + number[-_SHOWN_DIGITS:]


def _check_digits(kind: str, number: str) -> None:
    if len(number) != LENGTH or not (number.isascii() and number.isdigit()):
        raise IdentifierError(kind, f"must have exactly {LENGTH} digits 0-9; write it without spaces")


def _check_control(kind: str, number: str) -> None:
    expected = control_digit(number)
    if expected is None:
        raise IdentifierError(kind, "cannot exist: both control sums are 10; check every digit")
    if expected != int(number[-1]):
        raise IdentifierError(kind, "has a wrong control digit; one of its digits was mistyped")
