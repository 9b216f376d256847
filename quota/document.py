"""Reading a policy document: typed fields with limits, each refused with its path and what to write instead.

Nothing here knows what a policy means; `quota.policy` does.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Collection, Mapping
from datetime import date, datetime
from enum import StrEnum
from fractions import Fraction
from typing import Final, TypeVar

import yaml

from quota.model import Amount, Share

MAX_DOCUMENT_BYTES: Final = 262_144
"""Bytes of a policy document: hundreds of times the national example, small enough to parse in a request."""
MAX_DOCUMENT_DEPTH: Final = 40
"""Nesting of a document: the quota tree's own limit twice over (each level has `children`), and room."""
MAX_TEXT_CHARS: Final = 200
"""Characters of one text: the name of a body or the number of an act."""
MAX_LIST_ITEMS: Final = 1_000
"""Items of one list: grounds, routes, the sectors of a route."""
MAX_GPUS: Final = 1_000_000
"""GPUs in one figure: beyond any single machine, far within a 64-bit count of device-seconds."""
MAX_DURATION_S: Final = 10 * 365 * 86_400
"""Longest duration: ten years, longer than any period the platform plans for."""

MAX_LEVELS: Final = 16
"""Levels of the topology: as many as Kueue takes, far more than any fabric has."""

_LABEL: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,126}")
_UNIT_S: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 7 * 86_400, "y": 365 * 86_400}
_DURATION = re.compile(r"([0-9]{1,9})([smhdwy])")
_PERCENTAGE = re.compile(r"([0-9]{1,3}(?:\.[0-9]{1,9})?)%")
_RATIO = re.compile(r"[0-9]{1,6}(?:\.[0-9]{1,9})?")

T = TypeVar("T")
E = TypeVar("E", bound=StrEnum)


class PolicyCode(StrEnum):
    """Why a policy is refused."""

    BAD_POLICY = "BAD_POLICY"
    SHARES_EXCEED = "SHARES_EXCEED"
    NO_ENACTING_ACT = "NO_ENACTING_ACT"


class PolicyError(ValueError):
    """A policy that cannot come into force.

    Args:
        code: stable code for programs.
        path: where in the document, such as `policy.tree.science.nominal`.
        message: what is wrong and what to do, in English.
    """

    def __init__(self, code: PolicyCode, path: str, message: str) -> None:
        super().__init__(f"{path}: {message}")
        self.code = code
        self.path = path
        self.message = message


def bad(path: str, message: str) -> PolicyError:
    """A `BAD_POLICY` error, to be raised."""
    return PolicyError(PolicyCode.BAD_POLICY, path, message)


class _Loader(yaml.SafeLoader):
    """YAML's safe loader that keeps dates and decimals as written and refuses a key given twice.

    `2026.10` must not become the number 2026.1, nor `0.1` a binary fraction; and the document goes into the
    database as JSON, which has no dates.
    """

    yaml_implicit_resolvers = {  # noqa: RUF012 - PyYAML's own class attribute
        first: [(tag, regexp) for tag, regexp in resolvers if not tag.endswith((":float", ":timestamp"))]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[object, object]:  # noqa: FBT001, FBT002 - PyYAML's signature
        """Build a mapping; a repeated key is an error, not the last one's win."""
        found: dict[object, object] = super().construct_mapping(node, deep=deep)
        if len(found) != len(node.value):
            keys = [key.value for key, _ in node.value]
            twice = next(key for key in keys if keys.count(key) > 1)
            raise bad("policy", f'the key "{twice}" is given twice in one mapping; keep one')
        return found


def load_document(text: str) -> Mapping[str, object]:
    """Read YAML text into plain mappings, lists, texts and integers; the result is JSON.

    Decimals and dates stay texts as written. O(length of the text).

    Raises:
        PolicyError: larger than MAX_DOCUMENT_BYTES, nested deeper than MAX_DOCUMENT_DEPTH, with aliases or a
            key given twice, not YAML, or no mapping.
    """
    size_bytes = len(text.encode())
    if size_bytes > MAX_DOCUMENT_BYTES:
        raise bad("policy", f"the document has {size_bytes} bytes, at most {MAX_DOCUMENT_BYTES} are read")
    try:
        _refuse_bombs(text)
        document: object = yaml.load(text, Loader=_Loader)  # noqa: S506 - a subclass of the safe loader
    except (yaml.YAMLError, TypeError, ValueError) as error:
        if isinstance(error, PolicyError):
            raise
        raise bad("policy", f"the document is not valid YAML: {error}") from error
    return mapping(document, "policy")


def _refuse_bombs(text: str) -> None:
    """Walk the parser's events, which are made one at a time, before anything is built from them."""
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.AliasEvent):
            raise bad("policy", f"holds the alias *{event.anchor}; write the value out instead")
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > MAX_DOCUMENT_DEPTH:
            raise bad("policy", f"nested deeper than {MAX_DOCUMENT_DEPTH} levels; make the tree flatter")


def nearest(word: str, known: Collection[str]) -> str:
    """` (did you mean "x"?)` for a near miss, else the known words."""
    close = difflib.get_close_matches(word, sorted(known), n=1)
    return f' (did you mean "{close[0]}"?)' if close else f"; known: {', '.join(sorted(known))}"


def mapping(value: object, path: str) -> Mapping[str, object]:
    """A mapping whose keys are texts.

    Raises:
        PolicyError: anything else.
    """
    if not isinstance(value, Mapping):
        raise bad(path, "must be a mapping of names to values")
    for key in value:
        if not isinstance(key, str):
            raise bad(path, f"the key {key!r} must be a text; put it in quotes")
    return value


def section(value: object, path: str, keys: Collection[str]) -> Mapping[str, object]:
    """A mapping with no key outside `keys`.

    Raises:
        PolicyError: not a mapping, or an unknown key; a near miss is suggested.
    """
    found = mapping(value, path)
    for key in found:
        if key not in keys:
            raise bad(f"{path}.{key}", f"unknown key{nearest(key, keys)}")
    return found


def required(found: Mapping[str, object], key: str, path: str) -> object:
    """The value of a key that must be there.

    Raises:
        PolicyError: it is not.
    """
    if key not in found:
        raise bad(f"{path}.{key}", "is missing")
    return found[key]


def optional(
    found: Mapping[str, object], key: str, path: str, read: Callable[[object, str], T], default: T
) -> T:
    """The value of a key read with `read`, or `default` where the key is absent.

    Raises:
        PolicyError: what `read` raises.
    """
    return read(found[key], f"{path}.{key}") if key in found else default


def items(value: object, path: str) -> list[object]:
    """A list of at most MAX_LIST_ITEMS.

    Raises:
        PolicyError: anything else.
    """
    if not isinstance(value, list):
        raise bad(path, "must be a list")
    if len(value) > MAX_LIST_ITEMS:
        raise bad(path, f"has {len(value)} items, at most {MAX_LIST_ITEMS} are read")
    return value


def text(value: object, path: str) -> str:
    """A non-empty text; a number is taken as it is written.

    Raises:
        PolicyError: empty, longer than MAX_TEXT_CHARS, or no text.
    """
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise bad(path, "must be a text")
    found = str(value).strip()
    if not 1 <= len(found) <= MAX_TEXT_CHARS:
        raise bad(path, f"must have 1 to {MAX_TEXT_CHARS} characters, not {len(found)}")
    return found


def texts(value: object, path: str) -> tuple[str, ...]:
    """One text, or a list of them.

    Raises:
        PolicyError: anything else, or an empty list.
    """
    if not isinstance(value, list):
        return (text(value, path),)
    found = tuple(text(item, f"{path}[{index}]") for index, item in enumerate(items(value, path)))
    if not found:
        raise bad(path, "is an empty list; remove the key or name at least one")
    return found


def levels(value: object, path: str) -> tuple[str, ...]:
    """Keys of nodes' labels, each named once.

    Raises:
        PolicyError: one is no key of a label or named twice, or there are more than MAX_LEVELS.
    """
    found = texts(value, path)
    for place, key in enumerate(found):
        if _LABEL.fullmatch(key) is None:
            raise bad(f"{path}[{place}]", f'"{key}" is no key of a label, such as kezek.kz/rack')
        if key in found[:place]:
            raise bad(f"{path}[{place}]", f'"{key}" is named twice; a level has one place')
    if len(found) > MAX_LEVELS:
        raise bad(path, f"names {len(found)} levels, at most {MAX_LEVELS} are read")
    return found


def member(value: object, path: str, kinds: type[E]) -> E:
    """A word of an enumeration.

    Raises:
        PolicyError: any other word; a near miss is suggested.
    """
    word = text(value, path)
    known = {kind.value for kind in kinds}
    if word not in known:
        raise bad(path, f'"{word}" is not known{nearest(word, known)}')
    return kinds(word)


def integer(value: object, path: str, low: int, high: int) -> int:
    """A whole number from `low` to `high`, both included.

    Raises:
        PolicyError: anything else.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise bad(path, f"must be a whole number from {low} to {high}")
    if not low <= value <= high:
        raise bad(path, f"is {value}, must be from {low} to {high}")
    return value


def priority(value: object, path: str) -> int:
    """A priority, -1,000,000 to 1,000,000.

    Raises:
        PolicyError: anything else.
    """
    return integer(value, path, -1_000_000, 1_000_000)


def count(value: object, path: str) -> int:
    """A number of things, 1 to MAX_GPUS.

    Raises:
        PolicyError: anything else.
    """
    return integer(value, path, 1, MAX_GPUS)


def amount(value: object, path: str) -> Amount:
    """Whole GPUs (`16`) or a share of the parent's nominal (`18.75%`), exact.

    Raises:
        PolicyError: anything else, a negative figure or more than 100 %.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        return integer(value, path, 0, MAX_GPUS)
    match = _PERCENTAGE.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise bad(path, 'must be GPUs (16) or a percentage of the parent ("18.75%")')
    ratio = Fraction(match[1]) / 100
    if ratio > 1:
        raise bad(path, f"is {value}, a share of the parent is at most 100%")
    return Share(ratio)


def ratio(value: object, path: str) -> Fraction:
    """A decimal above 0, exact as written.

    Raises:
        PolicyError: anything else.
    """
    written = str(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else ""
    if _RATIO.fullmatch(written) is None or Fraction(written) == 0:
        raise bad(path, "must be a decimal above 0, such as 0.8")
    return Fraction(written)


def duration_s(value: object, path: str) -> int:
    """A duration such as `90s`, `30m`, `2h`, `7d`, `1w` or `2y` (365 days a year), in seconds.

    Raises:
        PolicyError: anything else, zero, or more than MAX_DURATION_S.
    """
    match = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise bad(path, 'must be a whole number with a unit: s, m, h, d, w or y, such as "30m"')
    found_s = int(match[1]) * _UNIT_S[match[2]]
    if not 1 <= found_s <= MAX_DURATION_S:
        raise bad(path, f"is {value}, must be from 1s to 10y")
    return found_s


def day(value: object, path: str) -> date:
    """A date: `2026-01-31`.

    Raises:
        PolicyError: anything else.
    """
    if isinstance(value, date) and not isinstance(value, datetime):
        return value
    try:
        return date.fromisoformat(value if isinstance(value, str) else "")
    except ValueError:
        raise bad(path, "must be a date such as 2026-01-31") from None
