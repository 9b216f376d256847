"""Typed reading of the platform's JSON; anything else than expected is a `ProtocolError` with its place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Final, cast

from kezek.errors import ProtocolError

Json = Mapping[str, object]
"""An object of the platform as it came."""


class Fields:
    """The fields of one JSON object. Fields that this client does not know are left alone."""

    def __init__(self, value: object, where: str) -> None:
        """Read `value`, found at `where`.

        Raises:
            ProtocolError: it is not an object.
        """
        if not isinstance(value, dict):
            raise ProtocolError(f"{where} is not an object")
        self.raw: Final[Json] = cast("dict[str, object]", value)
        self._where: Final = where

    def _wrong(self, key: str, expected: str) -> ProtocolError:
        return ProtocolError(f"{self._where}.{key} is not {expected}")

    def text(self, key: str) -> str:
        """A string."""
        value = self.raw.get(key)
        if not isinstance(value, str):
            raise self._wrong(key, "a string")
        return value

    def optional_text(self, key: str) -> str | None:
        """A string, or None where it is absent or null."""
        return None if self.raw.get(key) is None else self.text(key)

    def integer(self, key: str) -> int:
        """An integer."""
        value = self.raw.get(key)
        if not isinstance(value, int) or isinstance(value, bool):
            raise self._wrong(key, "an integer")
        return value

    def optional_integer(self, key: str) -> int | None:
        """An integer, or None where it is absent or null."""
        return None if self.raw.get(key) is None else self.integer(key)

    def number(self, key: str) -> float:
        """A number."""
        value = self.raw.get(key)
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise self._wrong(key, "a number")
        return float(value)

    def optional_number(self, key: str) -> float | None:
        """A number, or None where it is absent or null."""
        return None if self.raw.get(key) is None else self.number(key)

    def flag(self, key: str) -> bool:
        """True or false."""
        value = self.raw.get(key)
        if not isinstance(value, bool):
            raise self._wrong(key, "true or false")
        return value

    def instant(self, key: str) -> datetime:
        """An RFC 3339 instant, aware, in UTC."""
        try:
            value = datetime.fromisoformat(self.text(key))
        except ValueError as error:
            raise self._wrong(key, "an instant") from error
        if value.tzinfo is None:
            raise self._wrong(key, "an instant with its zone")
        return value.astimezone(UTC)

    def optional_instant(self, key: str) -> datetime | None:
        """An instant, or None where it is absent or null."""
        return None if self.raw.get(key) is None else self.instant(key)

    def objects(self, key: str) -> Iterator[Fields]:
        """The objects of a list."""
        for place, value in enumerate(self._list(key)):
            yield Fields(value, f"{self._where}.{key}[{place}]")

    def inner(self, key: str) -> Fields:
        """An object."""
        return Fields(self.raw.get(key), f"{self._where}.{key}")

    def optional_inner(self, key: str) -> Fields | None:
        """An object, or None where it is absent or null."""
        return None if self.raw.get(key) is None else self.inner(key)

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of strings."""
        values = self._list(key)
        if not all(isinstance(value, str) for value in values):
            raise self._wrong(key, "a list of strings")
        return tuple(cast("list[str]", values))

    def names(self, key: str) -> dict[str, str]:
        """An object of strings, such as a name in three languages."""
        given = self.inner(key)
        return {name: given.text(name) for name in given.raw}

    def numbers(self, key: str) -> dict[str, int | str]:
        """Named figures: integers and strings; those that are null are left out."""
        value = self.raw.get(key)
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise self._wrong(key, "an object")
        known = {str(name): one for name, one in value.items() if one is not None}
        return {name: one if isinstance(one, int | str) else str(one) for name, one in known.items()}

    def _list(self, key: str) -> list[object]:
        value = self.raw.get(key)
        if not isinstance(value, list):
            raise self._wrong(key, "a list")
        return cast("list[object]", value)
