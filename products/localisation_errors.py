"""What makes a localisation share impossible to state: one error each, with what to do about it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from typing import Final

MAX_NAMED: Final = 5
"""Offending rows that an error names [count]; it counts the rest."""


class LocalisationError(ValueError):
    """Base of what makes a share impossible to state."""


class ZeroTotalError(LocalisationError):
    """Nothing was paid, so there is no share."""

    def __init__(self, what: str) -> None:
        super().__init__(
            f"the sum of all payments {what} is 0, so there is no share; enter every payment made for the software"
        )


class MissingRateError(LocalisationError):
    """Payments in a foreign currency lack the rate of their day. `missing` holds (currency, day), sorted."""

    def __init__(self, missing: Sequence[tuple[str, date]]) -> None:
        self.missing = tuple(missing)
        named = some_of([f"{currency} on {on.isoformat()}" for currency, on in self.missing])
        super().__init__(f"no exchange rate for {named}; enter the National Bank's official rate of each day")


class ConflictingRateError(LocalisationError):
    """Two different rates are given for one currency and day."""

    def __init__(self, currency: str, on: date) -> None:
        super().__init__(f"two different rates of {currency} on {on.isoformat()}; keep the official one")
        self.currency = currency
        self.on = on


class BadAmountError(LocalisationError):
    """An amount or a rate is not a positive number, or a currency is no ISO 4217 code."""


class PeriodError(LocalisationError):
    """The period ends before it begins, or payments lie outside it."""


class PartyError(LocalisationError):
    """A contract or a party names one that is not there, twice there, or in a circle."""


class NotInForceError(LocalisationError):
    """The order did not apply yet."""

    def __init__(self, applied_on: date, in_force_from: date) -> None:
        super().__init__(
            f"Order No 604 is in force from {in_force_from.isoformat()}, the application is of "
            f"{applied_on.isoformat()}; date it from then on"
        )
        self.applied_on = applied_on


def some_of(names: Sequence[str]) -> str:
    """The first few of the names, and how many more there are."""
    rest = len(names) - MAX_NAMED
    return ", ".join(names[:MAX_NAMED]) + (f" and {rest} more" if rest > 0 else "")
