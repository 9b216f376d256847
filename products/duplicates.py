"""Products that look like another: by name, by a model's digest, by a link. Shown, never merged. Pure."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final
from urllib.parse import urlsplit

MAX_SHOWN: Final = 100
"""Likenesses of one product that are shown [count]: more than that is one wrong link, and is seen from these."""


class Mark(StrEnum):
    """What two products have in common."""

    NAME = "name"
    DIGEST = "digest"
    LINK = "link"


@dataclass(frozen=True, slots=True)
class Marks:
    """What a product is known by.

    Args:
        slug: its short name.
        is_imported: whether it was imported with a decision, without job evidence.
        names: in any language.
        digests: SHA-256 (hex) of its model versions.
        links: addresses where it can be seen.
    """

    slug: str
    is_imported: bool
    names: tuple[str, ...]
    digests: tuple[str, ...] = ()
    links: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Likeness:
    """Another product with the same mark, as `own` writes it; `slug` is None where the caller may not see it."""

    slug: str | None
    is_imported: bool
    mark: Mark
    value: str


def alike(own: Marks, others: Iterable[Marks]) -> tuple[Likeness, ...]:
    """Products that share a name, a digest or a link with `own`, by slug; at most `MAX_SHOWN`. O(all marks)."""
    mine = _keys(own)
    found = [
        (other.slug, other.is_imported, mark, mine[mark, key])
        for other in others
        if (other.slug, other.is_imported) != (own.slug, own.is_imported)
        for mark, key in _keys(other)
        if (mark, key) in mine
    ]
    return tuple(Likeness(*each) for each in sorted(found)[:MAX_SHOWN])


def plain_name(text: str) -> str:
    """A name without what people write differently: case, spaces, punctuation, width of characters."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return "".join(sign for sign in folded if sign.isalnum())


def plain_link(text: str) -> str:
    """An address without what leads to the same place: scheme, "www.", a final slash, a fragment."""
    parts = urlsplit(text.strip())
    host = parts.netloc.casefold().removeprefix("www.")
    query = f"?{parts.query}" if parts.query else ""
    return f"{host}{parts.path.rstrip('/')}{query}"


def _keys(marks: Marks) -> dict[tuple[Mark, str], str]:
    keys = {(Mark.NAME, plain_name(each)): each for each in marks.names if plain_name(each)}
    keys |= {(Mark.DIGEST, each): each for each in marks.digests}
    keys |= {(Mark.LINK, plain_link(each)): each for each in marks.links}
    return keys
