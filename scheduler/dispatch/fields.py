"""Strict reading of typed fields from decoded JSON; the one place where wire types are checked."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

MAX_STRING_CHARS = 65_536
"""Longest string of any message [characters]: above the longest command argument a tenant may send."""


class WireError(ValueError):
    """A message of another process does not have the agreed shape.

    Attributes:
        field: path of the offending field, as in ``ranks[0].gpu_uuids``.
        why: what was expected there.
    """

    def __init__(self, field: str, why: str) -> None:
        super().__init__(f"field {field!r}: {why}")
        self.field = field
        self.why = why


class Fields:
    """A JSON object read field by field; an unexpected field is an error, see `done`."""

    def __init__(self, value: object, where: str = "") -> None:
        """Wrap `value`.

        Args:
            value: decoded JSON, expected to be an object.
            where: path of the object inside its message, for error texts.

        Raises:
            WireError: `value` is not an object.
        """
        if not isinstance(value, Mapping):
            raise WireError(where or "(message)", "expected an object")
        self._value: Mapping[str, object] = value
        self._where = where
        self._seen: set[str] = set()

    def _path(self, name: str) -> str:
        return f"{self._where}.{name}" if self._where else name

    def raw(self, name: str) -> object:
        """The field as decoded, None when absent."""
        self._seen.add(name)
        return self._value.get(name)

    def text(self, name: str, pattern: re.Pattern[str] | None = None) -> str:
        """A string, wholly matching `pattern` if one is given.

        Raises:
            WireError: absent, not a string, too long, or not matching.
        """
        value = self.raw(name)
        if not isinstance(value, str):
            raise WireError(self._path(name), "expected a string")
        _check_text(value, self._path(name), pattern)
        return value

    def optional_text(self, name: str, pattern: re.Pattern[str] | None = None) -> str | None:
        """Like `text`, None when absent or null.

        Raises:
            WireError: present and not a fitting string.
        """
        return None if self.raw(name) is None else self.text(name, pattern)

    def integer(self, name: str, low: int, high: int) -> int:
        """An integer in [low, high].

        Raises:
            WireError: absent, not an integer (a boolean is none) or outside the range.
        """
        value = self.raw(name)
        if not isinstance(value, int) or isinstance(value, bool):
            raise WireError(self._path(name), "expected an integer")
        if not low <= value <= high:
            raise WireError(self._path(name), f"expected {low}..{high}, got {value}")
        return value

    def optional_integer(self, name: str, low: int, high: int) -> int | None:
        """Like `integer`, None when absent or null.

        Raises:
            WireError: present and not a fitting integer.
        """
        return None if self.raw(name) is None else self.integer(name, low, high)

    def number(self, name: str, low: float, high: float) -> float:
        """A finite number in [low, high].

        Raises:
            WireError: absent, not a number or outside the range.
        """
        value = self.raw(name)
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise WireError(self._path(name), "expected a number")
        if not low <= value <= high:  # NaN fails here too
            raise WireError(self._path(name), f"expected {low}..{high}, got {value}")
        return float(value)

    def flag(self, name: str) -> bool:
        """A boolean.

        Raises:
            WireError: absent or not a boolean.
        """
        value = self.raw(name)
        if not isinstance(value, bool):
            raise WireError(self._path(name), "expected true or false")
        return value

    def instant(self, name: str) -> datetime:
        """An instant sent as seconds since the epoch, as an aware UTC datetime.

        Raises:
            WireError: absent, not a number, or before 1970 or after 9000.
        """
        return datetime.fromtimestamp(self.number(name, 0, 221_845_392_000), UTC)

    def items(self, name: str, limit: int) -> list[tuple[str, object]]:
        """The elements of an array, each with its path.

        Raises:
            WireError: absent, not an array, or longer than `limit`.
        """
        value = self.raw(name)
        if not isinstance(value, Sequence) or isinstance(value, str | bytes):
            raise WireError(self._path(name), "expected an array")
        if len(value) > limit:
            raise WireError(self._path(name), f"expected at most {limit} elements, got {len(value)}")
        return [(f"{self._path(name)}[{i}]", item) for i, item in enumerate(value)]

    def texts(self, name: str, limit: int, pattern: re.Pattern[str] | None = None) -> tuple[str, ...]:
        """An array of at most `limit` strings.

        Raises:
            WireError: not such an array.
        """
        found: list[str] = []
        for path, item in self.items(name, limit):
            if not isinstance(item, str):
                raise WireError(path, "expected a string")
            _check_text(item, path, pattern)
            found.append(item)
        return tuple(found)

    def integers(self, name: str, limit: int) -> tuple[int, ...]:
        """An array of at most `limit` integers of at least 0.

        Raises:
            WireError: not such an array.
        """
        found: list[int] = []
        for path, item in self.items(name, limit):
            if not isinstance(item, int) or isinstance(item, bool) or item < 0:
                raise WireError(path, "expected an integer of at least 0")
            found.append(item)
        return tuple(found)

    def mapping(self, name: str, limit: int, key: re.Pattern[str]) -> dict[str, str]:
        """An object of at most `limit` strings whose names match `key`.

        Raises:
            WireError: not such an object.
        """
        value = self.raw(name)
        if not isinstance(value, Mapping):
            raise WireError(self._path(name), "expected an object")
        if len(value) > limit:
            raise WireError(self._path(name), f"expected at most {limit} entries, got {len(value)}")
        found: dict[str, str] = {}
        for inner, text in value.items():
            path = f"{self._path(name)}.{inner}"
            if not isinstance(inner, str) or not key.fullmatch(inner):
                raise WireError(path, f"the name does not match {key.pattern}")
            if not isinstance(text, str):
                raise WireError(path, "expected a string")
            _check_text(text, path, None)
            found[inner] = text
        return found

    def done(self) -> None:
        """Every field has been read.

        Raises:
            WireError: the object holds a field nobody asked for.
        """
        extra = sorted(set(self._value) - self._seen)
        if extra:
            raise WireError(self._path(extra[0]), "unknown field")


def _check_text(value: str, path: str, pattern: re.Pattern[str] | None) -> None:
    if len(value) > MAX_STRING_CHARS:
        raise WireError(path, f"expected at most {MAX_STRING_CHARS} characters, got {len(value)}")
    if "\0" in value:
        raise WireError(path, "a NUL character is not allowed")
    if pattern is not None and not pattern.fullmatch(value):
        raise WireError(path, f"{value[:80]!r} does not match {pattern.pattern}")
